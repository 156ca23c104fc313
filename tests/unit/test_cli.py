"""Whatever a person types: one clear line, the right exit code, never a traceback."""

import json
import re
from pathlib import Path

import pytest

from tests.command_line import fedlora

EXAMPLE = Path(__file__).parents[2] / "examples" / "chit-chat.yaml"
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


def test_a_good_job_file_is_confirmed_in_one_line():
    code, out, err = fedlora("job", "check", EXAMPLE)
    assert (code, err) == (0, "")
    assert "can run. 3 rounds of 1 steps" in out


def test_a_checked_job_as_json_has_every_default():
    code, out, _ = fedlora("job", "check", EXAMPLE, "--json")
    assert code == 0
    assert json.loads(out)["aggregation"]["robust"] == "mean"


def test_each_mistake_of_a_job_file_is_a_line_with_its_number_and_code_2(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(EXAMPLE.read_text().replace("epsilon: 8 ", "epsilon: 80").replace("rank: 8", "rnk: 8"))
    code, out, err = fedlora("job", "check", file)
    assert (code, out) == (2, "")
    mistakes = err.strip().splitlines()
    assert len(mistakes) == 2
    assert "lora.rnk: there is no such setting; did you mean rank?" in mistakes[0]
    assert re.search(r"job\.yaml: line \d+: privacy\.epsilon: 80 is above 10", mistakes[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("job", "check", "absent.yaml"), "absent.yaml: cannot be read"),
        (("job", "submit", "absent.yaml"), "absent.yaml: cannot be read"),
        (("job", "list", "--gateway", "nonsense"), "nonsense is not a web address"),
        (("ledger", "verify", "absent.jsonl"), "absent.jsonl cannot be read"),
        (("up", "--worker", "alice"), "write --worker NAME=FILE"),
        (("up", "--worker", "Al ice=x"), "cannot be a client's name"),
        (("up", "--worker", "alice=absent.jsonl"), "absent.jsonl is not a file"),
        (("up", "--processes"), "name one with --bus amqp://"),
        (("worker", "--data", "x", "--bus", "http://x", "--name", "a"), "not a broker's address"),
        (("worker", "--data", "absent", "--bus", "amqp://x", "--name", "a"), "absent is not a file"),
        (("worker", "--data", "x", "--bus", "amqp://x", "--name", "A!"), "cannot be a client's name"),
        (("client", "suspend", "job", "alice", "--reason", " "), "say why with --reason"),
        (("client", "reinstate", "job", "alice", "--reason", ""), "say why with --reason"),
        (("trace", "job-r1", "--file", "absent.jsonl"), "no span of job-r1"),
        (("evaluate", "absent.yaml", "--data", "x"), "absent.yaml: cannot be read"),
        (("evaluate", EXAMPLE, "--data", "absent"), "absent is not a file"),
        (("evaluate", EXAMPLE, "--data", EXAMPLE, "--adapter", "absent"), "holds no adapter_config.json"),
    ],
)
def test_a_persons_mistake_is_one_line_that_says_what_to_do_and_code_2(
    tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    code, out, err = fedlora(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "list"),
        ("job", "show", "x"),
        ("job", "watch", "x"),
        ("job", "cancel", "x"),
        ("job", "rounds", "x"),
        ("client", "list", "x"),
        ("client", "suspend", "x", "alice", "--reason", "y"),
        ("client", "reinstate", "x", "alice", "--reason", "y"),
        ("job", "submit", EXAMPLE),
        ("ledger", "show"),
        ("ledger", "export"),
        ("export", "x", "adapter"),
        ("report", "x", "report.html"),
    ],
)
def test_a_gateway_that_is_away_is_code_1_and_says_how_to_start_one(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, out, err = fedlora(*arguments, "--gateway", NOBODY)
    assert (code, out) == (1, "")
    assert "no gateway answers at http://127.0.0.1:9" in err
    assert "fedlora up" in err


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("job", "check"), ("up", "--port", "70000"), ("job", "x")]
)
def test_a_command_that_does_not_exist_is_code_2(arguments):
    code, _, err = fedlora(*arguments)
    assert code == 2
    assert "Error" in err or "Usage" in err


def test_the_demo_does_not_write_over_a_folder_that_is_not_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, err = fedlora("demo", "--fast", "--out", tmp_path)
    assert code == 2
    assert "no demo wrote it; name a new folder with --out" in err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_schema_is_printed_as_json():
    code, out, _ = fedlora("job", "schema")
    assert code == 0
    assert json.loads(out)["title"] == "JobSpecification"
