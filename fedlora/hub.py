"""`fedlora hub`: a job's adapter to a model hub, and an adapter from one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlora.adapters import new_folder, refuse_private
from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import say
from fedlora.export import unzip
from fedlora.faults import EXIT_MISTAKE, Fault, trouble
from fedlora.jobs import GatewayUrl, JobName
from shared.core.lora.files import CONFIG_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

app = typer.Typer(no_args_is_help=True, help="A model hub: push a job's adapter, pull an adapter.")

RepositoryName = Annotated[str, typer.Argument(metavar="REPO", help="such as NAME/REPOSITORY")]
PULLED = ["*.json", "*.safetensors", "*.md"]  # no code and no pickles
INSTALL = "install fedlora[worker]"


@app.command()
def push(
    job_id: JobName,
    repository: RepositoryName,
    private: Annotated[bool, typer.Option("--private", help="only those you let in can read it")] = False,
    gateway: GatewayUrl = DEFAULT_URL,
) -> None:
    """Push a job's adapter, as `fedlora export` writes it; with HF_TOKEN, or after `hf auth login`."""
    api = _api()
    if not api.token:
        raise Fault("no token for the hub", "set HF_TOKEN, or log in with `hf auth login`")
    with GatewayClient(gateway) as client:
        content = client.adapter(job_id)
    with tempfile.TemporaryDirectory() as folder:
        unzip(content, Path(folder))
        address = push_folder(api, Path(folder), repository, private, f"Adapter of {job_id}")
    say(address)


@app.command()
def pull(
    repository: RepositoryName,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that is made")],
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit; default: main")] = None,
) -> None:
    """Write an adapter of a hub into a folder, for `fedlora job submit --start` or PEFT."""
    new_folder(folder)
    pull_folder(_api(), repository, folder, revision)
    say(f"{folder}: " + ", ".join(sorted(file.name for file in folder.iterdir())))


def push_folder(api: "HfApi", folder: Path, repository: str, private: bool, message: str) -> str:
    """Make the repository where there is none and commit the folder's files; the repository's address.

    Raises: Fault where the folder is PRIVATE or no adapter's, the hub refuses or is away, or `private` is
        asked of a repository that others can read.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise Fault(f"{folder} holds no {CONFIG_FILE}", "push what `fedlora export` writes")
    refuse_private(folder)
    with _hub_faults(api.endpoint, repository):
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(address.repo_id).private:
            raise Fault(f"{repository} is there and public", "make it private on the hub, or name another")
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message=message)
    return str(address)


def pull_folder(api: "HfApi", repository: str, folder: Path, revision: str | None = None) -> None:
    """Write the repository's data and text into `folder`. Raises: Fault, as for a push."""
    with tempfile.TemporaryDirectory() as fetched:
        with _hub_faults(api.endpoint, repository):
            api.snapshot_download(repository, revision=revision, local_dir=fetched, allow_patterns=PULLED)
        if not Path(fetched, CONFIG_FILE).is_file():
            raise Fault(f"{repository} holds no {CONFIG_FILE}", "it is not an adapter's repository")
        shutil.copytree(fetched, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".cache"))


def _api() -> "HfApi":
    try:
        from huggingface_hub import HfApi, get_token  # noqa: PLC0415 - an extra
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415 - as above
    except ImportError:
        raise Fault("huggingface_hub is not installed", INSTALL) from None
    disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=get_token())


@contextmanager
def _hub_faults(endpoint: str, repository: str) -> Iterator[None]:
    """Say in one line what the hub, or the way to it, does not allow."""
    from huggingface_hub.errors import (  # noqa: PLC0415 - an extra
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    transport: type[Exception] = HfHubHTTPError.__mro__[1]  # the base of its HTTP library's own errors
    try:
        yield
    except HFValidationError as error:
        raise Fault(f"{repository}: {str(error).splitlines()[0]}", "name it as NAME/REPOSITORY") from None
    except OfflineModeIsEnabled:
        raise Fault("HF_HUB_OFFLINE is set", "unset it to reach the hub") from None
    except HfHubHTTPError as error:
        raise _of_status(error.response.status_code, endpoint, repository) from None
    except LocalEntryNotFoundError as error:
        cause = error.__cause__
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
        raise _of_status(status, endpoint, repository) from None
    except (transport, ConnectionError, TimeoutError):
        raise _of_status(0, endpoint, repository) from None
    except (RuntimeError, ValueError) as error:  # an upload that stopped half-way, an answer it cannot read
        raise trouble(f"{repository}: {str(error).splitlines()[0]}", "try again") from None


def _of_status(status: int, endpoint: str, repository: str) -> Fault:
    """What an HTTP status of the hub means here; 0: there was no answer."""
    if status == 0:
        return trouble(
            f"no hub answers at {endpoint}",
            "check the network and HF_ENDPOINT; a hub without Xet needs HF_HUB_DISABLE_XET=1",
        )
    said = {
        401: ("does not know your token, or has no such repository", "set HF_TOKEN, or check the name"),
        403: ("does not let your token do this", "use a token that may write to it"),
        404: ("has no such repository or revision", "check the name"),
    }
    reason, remedy = said.get(status, (f"answered {status}", "try again later"))
    if status in said:
        return Fault(f"{repository}: {endpoint} {reason}", remedy, EXIT_MISTAKE)
    return trouble(f"{repository}: {endpoint} {reason}", remedy)
