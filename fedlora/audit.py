"""`fedlora audit`: try to catch the private step at leaking more than it claims."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora.console import emit_json, out, say, table
from fedlora.faults import EXIT_MISTAKE, Fault, trouble
from fedlora.jobs import AsJson, JobFile
from fedlora.workers import check_data, require_worker_packages
from shared.job.loading import load_job

TIMEOUT_S = 3600


def audit(  # noqa: PLR0913, PLR0917 - each is an option of the command
    file: JobFile,
    data: Annotated[Path, typer.Option(help="records in the job's columns; the first 256 are trained on")],
    canaries: Annotated[int, typer.Option(min=1, help="records to guess; each is in by a coin")] = 1000,
    steps: Annotated[
        int | None, typer.Option(min=1, help="private steps; default: the job's, at most 50")
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="a small random model instead of the job's: seconds, no download")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Audit a job's private step: guess canaries from what it releases, test the noise's variance."""
    load_job(file)
    data = check_data(data)
    require_worker_packages()
    with out.status("auditing") if out.is_terminal and not as_json else contextlib.nullcontext():
        found = _audited(file, data, canaries, steps, small)
    if as_json:
        emit_json(found)
    else:
        _say(found)
    if not found["sound"]:
        raise trouble(f"the audit contradicts the claim: {_contradictions(found)}", "do not train with it")


def _audited(file: Path, data: Path, canaries: int, steps: int | None, small: bool) -> dict[str, Any]:
    """The report of a child process: torch is imported there only."""
    command = [sys.executable, "-m", "services.client.training.auditing"]
    command += ["--job", str(file), "--data", str(data), "--canaries", str(canaries)]
    command += [] if steps is None else ["--steps", str(steps)]
    command += ["--small"] if small else []
    try:
        ended = subprocess.run(  # noqa: S603 - this interpreter, no shell
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise trouble(
            "the audit took more than an hour", "give fewer --steps or --canaries, or --small"
        ) from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [str(ended.returncode)])[-1]
        raise Fault(last) if ended.returncode == EXIT_MISTAKE else trouble(f"the audit failed: {last}")
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def _say(found: dict[str, Any]) -> None:
    guesses = found["guesses"]
    say(
        f"{found['steps']} steps at sampling rate {found['sampling_rate']:g} with noise multiplier "
        f"{found['noise_multiplier']:g}, on {found['records']} records and {guesses['canaries']} canaries; "
        f"model {found['model']}, {found['parameters']} trained parameters"
    )
    say(f"claimed  epsilon {found['claimed_epsilon']:.3f} at delta {found['delta']:g}")
    right = f"{guesses['correct']} of {guesses['made']} guesses right"
    say(f"audited  epsilon at least {found['audited_epsilon']:.3f}, {found['confidence']:.0%} sure: {right}")
    most = found["most_audited_epsilon"]
    if most <= found["claimed_epsilon"]:
        say(f"  so many canaries show at most {most:.3f}, less than claimed; --steps 1 claims less")
    out.print()
    rows = table("the noise", "found / claimed", "p", "")
    for test in found["noise"]:
        failed = "fails" if test["what"] in found["failed_noise"] else ""
        rows.add_row(test["what"], f"{test['variance']:.4f}", f"{test['p_value']:.2g}", failed)
    out.print(rows)
    if found["sound"]:
        say("nothing contradicts the claim; an audit can refute one, not prove it")


def _contradictions(found: dict[str, Any]) -> str:
    said = [f"the {what} of the noise is not what is claimed" for what in found["failed_noise"]]
    if found["refuted"]:
        said.insert(
            0, f"epsilon is at least {found['audited_epsilon']:.3f}, not {found['claimed_epsilon']:.3f}"
        )
    return "; ".join(said)
