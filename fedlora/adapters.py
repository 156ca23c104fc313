"""Adapters as files: what a job starts from, Fed-SB's frames, and a model with an adapter merged into it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora.console import say
from fedlora.faults import EXIT_MISTAKE, Fault, trouble
from fedlora.workers import require_worker_packages
from services.client.private import MARKER
from shared.core.lora.files import BASE_CHANGE_FILE, CONFIG_FILE, TENSORS_FILE
from shared.job.loading import load_job

TIMEOUT_S = 3600


def adapter_content(path: Path) -> bytes:
    """Safetensors of an exported folder, or of a file.

    Raises: Fault for anything else, and for a personal one.
    """
    refuse_private(path)
    if path.is_dir() and (path / BASE_CHANGE_FILE).exists():
        raise Fault(
            f"{path} changes the base model too, and a job starts from an adapter alone",
            "merge it first: fedlora merge, and name the merged folder as model.base",
        )
    file = path / TENSORS_FILE if path.is_dir() else path
    try:
        return file.read_bytes()
    except OSError as error:
        raise Fault(f"{file}: {error.strerror}", "name a folder that `fedlora export` wrote") from None


def refuse_private(path: Path) -> None:
    """Before anything of a folder, or of a file in it, leaves this machine.

    Raises: Fault where the folder is marked as trained without privacy on one owner's records.
    """
    whole = path.resolve()
    folder = whole if whole.is_dir() else whole.parent
    if (folder / MARKER).exists():
        raise Fault(
            f"{folder} is PRIVATE: trained without privacy on one owner's records",
            "use the adapter that `fedlora export` wrote",
        )


def merge(
    file: Annotated[Path, typer.Argument(help="the job file, for its base model")],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="a folder that `fedlora export` wrote")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that is made")],
) -> None:
    """Write the base model with an adapter in it, changed weights included: a model like any other."""
    load_job(file)
    new_folder(folder)
    require_adapter(adapter)
    run_in_worker("services.client.training.merging", "--job", file, "--adapter", adapter, "--out", folder)
    say(f"{folder}: a model that `from_pretrained` loads")


def frames(
    file: Annotated[Path, typer.Argument(help="the job file, with lora.method: fedsb")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="safetensors that are made")],
    adapter: Annotated[
        Path | None,
        typer.Option("--from", metavar="ADAPTER", help="of a released adapter's product, not of the weights"),
    ] = None,
) -> None:
    """Fed-SB's U and V: singular vectors of the base model's weights, or of an adapter that was released with
    noise and accounted. Start a job from them: `fedlora job submit --start FILE`."""
    job = load_job(file)
    if job.lora.method != "fedsb":
        raise Fault(f"lora.method is {job.lora.method}, and frames are Fed-SB's", "set lora.method: fedsb")
    if out.exists():
        raise Fault(f"{out} is there already", "name another file")
    if adapter is not None:
        refuse_private(adapter)
    given = () if adapter is None else ("--adapter", adapter)
    run_in_worker("services.client.training.framing", "--job", file, "--out", out, *given)
    say(f"{out}: submit the job with --start {out}")


def new_folder(folder: Path) -> None:
    """Raises: Fault when it is in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Fault(f"{folder} is not empty", "name a new folder")


def require_adapter(folder: Path) -> None:
    """Raises: Fault when it is no PEFT folder."""
    if not (folder / CONFIG_FILE).is_file():
        raise Fault(f"{folder} holds no {CONFIG_FILE}", "name a folder that `fedlora export` wrote")


def run_in_worker(module: str, *options: str | Path, timeout_s: float | None = TIMEOUT_S) -> dict[str, Any]:
    """What `module` prints as its last line, in a process of its own, which alone imports torch.

    Raises: Fault with its last line, the person's where `module` ends with 2.
    """
    require_worker_packages()
    command = [sys.executable, "-m", module, *(str(option) for option in options)]
    ended = subprocess.run(  # noqa: S603 - this interpreter, no shell
        command, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        said = lines[-1] if lines else f"{module} ended with {ended.returncode}"
        raise Fault(said) if ended.returncode == EXIT_MISTAKE else trouble(said)
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found
