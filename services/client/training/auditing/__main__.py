"""Audits a job's private step on this machine.

`python -m services.client.training.auditing --job job.yaml --data records.jsonl [--small] [--canaries N]
[--steps T]` prints one line of JSON: the report of `audit`, the model, what failed and whether all is sound.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.client import command_line
from services.client.data import read_records, tokenise
from services.client.models import default_cache
from services.client.training.auditing.run import audit
from services.client.training.auditing.small_model import small_model
from services.client.training.bases import choose_device
from services.client.training.building import build
from services.client.training.noise import KeyStream
from shared.errors import Refused
from shared.job.loading import load_job
from shared.job.plan import is_divided, planned_steps
from shared.job.specification import JobSpecification

MISTAKE = 2  # exit status; what is wrong is the last line of standard error
MOST_RECORDS = 256
MOST_STEPS = 50


def report(
    job: JobSpecification, data: Path, *, small: bool, canaries: int, steps: int | None
) -> dict[str, Any]:
    """Audit, and what came out as JSON. Raises: Refused, DataError, NoiseNotFound."""
    if is_divided(job):
        raise Refused(
            "privacy.noise",
            "the audit reads releases of one client, and divided noise releases sums over clients",
            "audit the same job with privacy.noise: local",
        )
    records, _ = read_records(data, job.data, job.model)
    adapted = small_model(job) if small else build(job, default_cache(), choose_device(), None)
    found = audit(
        adapted,
        job,
        tokenise(records[:MOST_RECORDS], adapted.tokenizer, job),
        canaries=canaries,
        steps=steps or min(planned_steps(job), MOST_STEPS),
        stream=KeyStream(),
    )
    return {
        **asdict(found),
        "model": "small" if small else job.model.base,
        "refuted": found.refuted,
        "failed_noise": [test.what for test in found.failed_noise],
        "sound": found.sound,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_line.parser("services.client.training.auditing", "records in the job's columns")
    parser.add_argument("--canaries", type=int, required=True, help="each is in with probability 1/2")
    parser.add_argument("--steps", type=int, help="private steps to take")
    parser.add_argument("--small", action="store_true", help="a small random model for the job's base")
    given = parser.parse_args(arguments)

    def find() -> dict[str, Any]:
        job = load_job(given.job)
        return report(job, given.data, small=given.small, canaries=given.canaries, steps=given.steps)

    return command_line.print_json(find, MISTAKE)


if __name__ == "__main__":
    sys.exit(main())
