"""`fedlora evaluate`: the model on held-out records, measured in a process of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fedlora.adapters import require_adapter
from fedlora.console import emit_json, say
from fedlora.faults import trouble
from fedlora.workers import check_data, require_worker_packages
from shared.job.loading import load_job

TIMEOUT_S = 3600


@dataclass(frozen=True)
class Evaluation:
    """One figure: "perplexity" or "accuracy", over `records` held-out records."""

    metric: str
    value: float
    records: int


def evaluate(job_file: Path, data: Path, adapter: Path | None) -> Evaluation:
    """Measure the base model, or with an adapter. torch is imported by the child process only.

    Raises: Fault with the child's last line when it fails.
    """
    command = [
        sys.executable,
        "-m",
        "services.client.evaluation",
        "--job",
        str(job_file),
        "--data",
        str(data),
    ]
    if adapter is not None:
        command += ["--adapter", str(adapter)]
    ended = subprocess.run(  # noqa: S603 - this interpreter, no shell
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise trouble(f"the evaluation failed: {lines[-1] if lines else ended.returncode}")
    found = json.loads(ended.stdout.strip().splitlines()[-1])
    return Evaluation(str(found["metric"]), float(found["value"]), int(found["records"]))


def evaluate_command(job_file: Path, data: Path, adapter: Path | None, as_json: bool) -> None:
    """What the command line calls."""
    load_job(job_file)
    check_data(data)
    if adapter is not None:
        require_adapter(adapter)
    require_worker_packages()
    found = evaluate(job_file, data, adapter)
    if as_json:
        emit_json(vars(found))
    else:
        say(f"{found.metric} {found.value:.4g} on {found.records} records")
