"""Measures a base model, with or without a trained adapter, on held-out records of this machine.

`python -m services.client.evaluation --job job.yaml --data held-out.jsonl [--adapter FOLDER]` prints one
line of JSON: metric, value, records, model.
"""

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.client import command_line
from services.client.data import Record, read_records
from services.client.models import default_cache
from shared.job.loading import load_job
from shared.job.specification import JobSpecification, Task


@dataclass(frozen=True)
class Evaluation:
    """One figure over held-out records.

    Attributes:
        metric: "perplexity", exp of the mean negative log-likelihood of a learnt token, or "accuracy".
        value: of the metric.
        records: how many were measured.
        model: what was measured, in words.
    """

    metric: str
    value: float
    records: int
    model: str


def evaluate(job: JobSpecification, data: Path, adapter: Path | None, cache: Path) -> Evaluation:
    """Measure on `data`. Raises: Refused, DataError."""
    records, _ = read_records(data, job.data, job.model)
    if job.model.task is Task.SEQUENCE_CLASSIFICATION and adapter is None:
        return untouched_classifier(records)
    from services.client.training import measuring  # noqa: PLC0415 - imports torch

    measured = measuring.measure(job, records, adapter, cache)
    name = job.model.base if adapter is None else f"{job.model.base} with its adapter"
    if job.model.task is Task.SEQUENCE_CLASSIFICATION:
        return Evaluation("accuracy", measured.correct / len(records), len(records), name)
    perplexity = math.exp(min(measured.loss / max(measured.positions, 1), 700.0))
    return Evaluation("perplexity", perplexity, len(records), name)


def untouched_classifier(records: Sequence[Record]) -> Evaluation:
    """A classifier before training has a zero head: all classes tie, and it gives one constant answer.

    The best constant answer is the most frequent class: no other is fairer to the untouched model.
    """
    most = Counter(record.label for record in records).most_common(1)[0][1]
    return Evaluation("accuracy", most / len(records), len(records), "the most frequent class, always")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_line.parser("services.client.evaluation", "held-out records")
    parser.add_argument("--adapter", type=Path, help="a folder that `fedlora export` wrote")
    parser.add_argument("--json", action="store_true", help="the output is JSON in any case")
    given = parser.parse_args(arguments)

    def find() -> Mapping[str, Any]:
        return asdict(evaluate(load_job(given.job), given.data, given.adapter, default_cache()))

    return command_line.print_json(find, mistake=1)


if __name__ == "__main__":
    sys.exit(main())
