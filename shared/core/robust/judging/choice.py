"""A job's choice of a rule, and how many hostile rows it bears."""

from dataclasses import dataclass

from shared.core.robust.gram.rule import minority
from shared.core.robust.judging.table import Kind, Mix, Needs, kind_of


@dataclass(frozen=True)
class Choice:
    """How rows are judged, a row being one client's update or one group's mean.

    Attributes:
        name: of the rule.
        hostile: f, how many clients may be hostile.
        mix: what comes before the rule.
        bucket: rows in a bucket, for `Mix.BUCKETS`.
        root: the client whose update is trusted, for rules that need one; its own update is not aggregated.
    """

    name: str = "mean"
    hostile: int = 0
    mix: Mix = Mix.NONE
    bucket: int = 2
    root: str = ""

    @property
    def kind(self) -> Kind:
        """The line of the table. Raises: Refused for a rule that is not installed."""
        return kind_of(self.name)

    @property
    def plain(self) -> bool:
        """Whether a sum is all that is needed."""
        return self.kind.needs is Needs.SUM


def rows_judged(choice: Choice, rows: int) -> int:
    """How many the rule itself sees of that many."""
    rows -= bool(choice.root)
    return -(-rows // choice.bucket) if choice.mix is Mix.BUCKETS else rows


def largest_f(choice: Choice, rows: int) -> int:
    """How many of so many rows may be hostile; a hostile row spoils its bucket."""
    most = choice.kind.largest_f(rows_judged(choice, rows))
    return min(most, minority(rows)) if choice.mix is Mix.NEAREST_NEIGHBOUR else most
