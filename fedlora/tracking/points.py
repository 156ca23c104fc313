"""What is written of a round, whichever backend writes it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True)
class Point:
    """What one finished round gave.

    Attributes:
        number: of the round; the backends' step.
        ended: seconds since the epoch.
        values: name -> figure; a round that was aborted has no update norm.
    """

    number: int
    ended: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """Writes the points of one job. Where it stopped, another of the same job goes on."""

    @property
    def last(self) -> int:
        """The highest round that is written; 0: none."""
        ...

    def write(self, point: Point) -> None:
        """Write the round; called with rising numbers above `last`."""
        ...

    def close(self, over: bool) -> None:
        """Everything written is kept; `over`: the job is, too."""
        ...


def points_of(job: Mapping[str, Any], after: int) -> Iterator[Point]:
    """The rounds above `after` of GET /jobs/{id}, in order, up to the first that is not over.

    A round is written only once all before it are, so that the highest round written says which are.
    """
    for one in sorted(job["rounds"], key=lambda one: int(one["number"])):
        if one["status"] == "open" or one["ended_at"] is None:
            return
        if one["number"] > after:
            yield _point(one, job["budgets"])


def _point(one: Mapping[str, Any], budgets: list[dict[str, Any]]) -> Point:
    ended = datetime.fromisoformat(one["ended_at"]).timestamp()
    values = {
        "round/contributors": len(one["contributors"]),
        "round/left_out": len(one["left_out"]),
        "round/local_steps": one["local_steps"],
        "round/uploaded_bytes": one["uploaded_bytes"],
        "round/completed": float(one["status"] == "completed"),
        **{f"metrics/{name}": value for name, value in one["metrics"].items()},
    }
    if one["update_norm"] is not None and one["kind"] == "train":
        values["round/update_norm"] = one["update_norm"]
    if one["started_at"] is not None:
        values["round/seconds"] = ended - datetime.fromisoformat(one["started_at"]).timestamp()
    spent = largest_epsilon(budgets, one["number"])
    if spent is not None:
        values["privacy/largest_epsilon"] = spent
    return Point(one["number"], ended, {name: float(value) for name, value in values.items()})


def largest_epsilon(budgets: list[dict[str, Any]], number: int) -> float | None:
    """The largest epsilon that any client had spent after round `number`; None: nothing was spent."""
    spent = [
        float(entry["epsilon"])
        for budget in budgets
        for entry in budget["entries"]
        if int(entry["round_id"].rpartition("-r")[2]) <= number
    ]
    return max(spent, default=None)
