"""An adapter goes to a hub and comes back as it was; what the hub refuses is one line."""

import io
import secrets
import zipfile

import pytest

from fedlora.api_client import GatewayClient
from tests.command_line import fedlora
from tests.hub_server import TOKEN, Repository, serving

pytest.importorskip("huggingface_hub")
# huggingface_hub uploads with an argument that its HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there
FILES = {
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": secrets.token_bytes(70_001),
    "README.md": b"---\nlibrary_name: peft\n---\n# chat\n",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as one:
        monkeypatch.setenv("HF_ENDPOINT", one.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # plain LFS uploads
        exported(monkeypatch, FILES)
        yield one


def exported(monkeypatch, files):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writing:
        for name, content in files.items():
            writing.writestr(name, content)
    monkeypatch.setattr(GatewayClient, "adapter", lambda client, job_id: archive.getvalue())


def refused(*arguments):
    code, out, err = fedlora(*arguments)
    assert (out, len(err.splitlines())) == ("", 1), (out, err)
    return code, err


def test_what_is_pushed_is_pulled_back_byte_for_byte(hub, tmp_path):
    code, out, err = fedlora("hub", "push", "job-1", "someone/chat")
    assert (code, err, out.strip()) == (0, "", f"{hub.endpoint}/someone/chat")
    pushed = hub.repositories["someone/chat"]
    assert not pushed.private
    assert pushed.lfs == {"adapter_model.safetensors"}
    assert {name: pushed.files[name] for name in FILES} == FILES
    code, out, err = fedlora("hub", "pull", "someone/chat", tmp_path / "back")
    assert (code, err) == (0, "")
    back = {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()}
    assert {name: back[name] for name in FILES} == FILES
    assert set(back) == set(FILES)


def test_a_private_repository_is_private_from_the_start(hub):
    assert fedlora("hub", "push", "job-1", "someone/chat", "--private")[0] == 0
    assert hub.repositories["someone/chat"].private


def test_a_private_push_does_not_go_to_a_public_repository(hub):
    hub.repositories["someone/chat"] = Repository(private=False)
    code, err = refused("hub", "push", "job-1", "someone/chat", "--private")
    assert code == 2
    assert "is there and public" in err
    assert hub.repositories["someone/chat"].files == {}


def test_a_repository_that_is_there_gets_another_commit(hub):
    hub.repositories["someone/chat"] = Repository(files={"README.md": b"old"})
    assert fedlora("hub", "push", "job-1", "someone/chat")[0] == 0
    assert hub.repositories["someone/chat"].files["README.md"] == FILES["README.md"]


def test_a_wrong_token_is_said(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    code, err = refused("hub", "push", "job-1", "someone/chat")
    assert code == 2
    assert "does not know your token" in err


def test_no_token_is_said_before_anything_is_asked(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, err = refused("hub", "push", "job-1", "someone/chat")
    assert code == 2
    assert "no token for the hub; set HF_TOKEN" in err
    assert hub.asked == []


def test_a_token_that_may_not_write_is_said(hub):
    hub.readable_only = True
    code, err = refused("hub", "push", "job-1", "someone/chat")
    assert code == 2
    assert "use a token that may write" in err


def test_a_repository_that_is_not_there_is_said(hub, tmp_path):
    code, err = refused("hub", "pull", "someone/absent", tmp_path / "back")
    assert code == 2
    assert "no such repository" in err
    assert not (tmp_path / "back").exists()


def test_a_repository_of_something_else_is_said(hub, tmp_path):
    hub.repositories["someone/data"] = Repository(files={"README.md": b"data"})
    code, err = refused("hub", "pull", "someone/data", tmp_path / "back")
    assert code == 2
    assert "holds no adapter_config.json" in err


def test_nothing_that_could_run_is_pulled(hub, tmp_path):
    hub.repositories["someone/chat"] = Repository(files={**FILES, "model.py": b"1", "x.bin": b"2"})
    assert fedlora("hub", "pull", "someone/chat", tmp_path / "back")[0] == 0
    assert {file.name for file in (tmp_path / "back").iterdir()} == set(FILES)


def test_an_archive_without_an_adapter_is_not_pushed(hub, monkeypatch):
    exported(monkeypatch, {"README.md": b"nothing else"})
    code, err = refused("hub", "push", "job-1", "someone/chat")
    assert code == 2
    assert "holds no adapter_config.json" in err
    assert hub.repositories == {}


@pytest.mark.parametrize("command", [("push", "job-1", "a/b"), ("pull", "a/b", "back")])
def test_a_hub_that_is_away_is_said(hub, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    code, err = refused("hub", *command)
    assert code == 1
    assert f"no hub answers at {NOBODY}" in err


def test_offline_mode_is_said(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused("hub", "push", "job-1", "someone/chat")[1]


def test_a_name_that_none_can_have_is_said(hub, tmp_path):
    code, err = refused("hub", "pull", "not a/name", tmp_path / "back")
    assert code == 2
    assert "NAME/REPOSITORY" in err


def test_a_folder_in_use_is_left_alone(hub, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert "is not empty" in refused("hub", "pull", "someone/chat", tmp_path)[1]
