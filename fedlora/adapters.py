"""Adapters as files: what a job starts from, Fed-SB's frames, and a model with an adapter merged into it."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedlora.console import say
from fedlora.faults import Fault, trouble
from fedlora.workers import require_worker_packages
from shared.job.loading import load_job

TENSORS = "adapter_model.safetensors"
BASE_CHANGE = "base_change.safetensors"
TIMEOUT_S = 3600


def adapter_content(path: Path) -> bytes:
    """Safetensors of an exported folder, or of a file. Raises: Fault for anything else."""
    if path.is_dir() and (path / BASE_CHANGE).exists():
        raise Fault(
            f"{path} changes the base model too, and a job starts from an adapter alone",
            "merge it first: fedlora merge, and name the merged folder as model.base",
        )
    file = path / TENSORS if path.is_dir() else path
    try:
        return file.read_bytes()
    except OSError as error:
        raise Fault(f"{file}: {error.strerror}", "name a folder that `fedlora export` wrote") from None


def merge(
    file: Annotated[Path, typer.Argument(help="the job file, for its base model")],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="a folder that `fedlora export` wrote")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that is made")],
) -> None:
    """Write the base model with an adapter in it, changed weights included: a model like any other."""
    load_job(file)
    _new(folder)
    if not (adapter / "adapter_config.json").is_file():
        raise Fault(f"{adapter} holds no adapter_config.json", "name a folder that `fedlora export` wrote")
    _run("services.client.training.merging", "--job", file, "--adapter", adapter, "--out", folder)
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
    given = () if adapter is None else ("--adapter", adapter)
    _run("services.client.training.framing", "--job", file, "--out", out, *given)
    say(f"{out}: submit the job with --start {out}")


def _new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Fault(f"{folder} is not empty", "name a new folder")


def _run(module: str, *options: str | Path) -> None:
    """In a process of its own, which alone imports torch. Raises: Fault with its last line."""
    require_worker_packages()
    command = [sys.executable, "-m", module, *(str(option) for option in options)]
    ended = subprocess.run(  # noqa: S603 - this interpreter, no shell
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise trouble(lines[-1] if lines else f"{module} ended with {ended.returncode}")
