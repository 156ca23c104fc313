"""What a round says of clients: who was left out, why, and how often."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from shared.events.ids import ClientId
from shared.events.values import Value


class Finding(Value):
    """Why one client, or one group, counts for less than its share, or not at all.

    Attributes:
        subject: the client or group.
        figure: what was measured: distance, norm, cosine, likeness, neighbours, zero.
        value: of this one; a distance and a norm are in units of the updates.
        limit: what it was held against.
        weight: what it counts in the update, of 1 in all.
    """

    subject: Annotated[str, Field(max_length=200)]
    figure: Annotated[str, Field(max_length=40)]
    value: float
    limit: float
    weight: float

    @property
    def sentence(self) -> str:
        """For people."""
        if self.figure == "zero":
            return "its update is zero in every coordinate"
        if self.figure == "neighbours":
            return f"it is in {self.value:.0f} of the mixtures that count, where {self.limit:.4g} are even"
        side = "below" if self.figure == "cosine" else "above"
        return f"its {self.figure} of {self.value:.4g} is {side} {self.limit:.4g}"


class LeftOut(Value):
    """A client or group without influence on an aggregate, and why.

    Attributes:
        sent_wrong: what it sent could not be taken; not that nothing came, or that a rule gave it no weight.
    """

    client_id: ClientId
    reason: str
    sent_wrong: bool = False


class Change(Value):
    """Who suspended or reinstated a client, when, why, and at which score; nobody: its score did."""

    to: Literal["suspended", "reinstated"]
    by: str
    reason: str
    score: float
    at: AwareDatetime


class Standing(Value):
    """How often a client has been left out of a job for what it sent, and whether it is asked at all.

    Attributes:
        score: standard deviations above what is expected of one client among equals.
        judged: rounds that count in the score.
        left_out: of those, rounds in which it was left out.
        finding: why it was left out the last time.
        spared: why it is still asked, though its score says otherwise; empty where that is not so.
        suspended: why it is not asked any more; empty while it is.
        revision: of this client in this job; a higher one is later.
    """

    score: float = 0.0
    judged: int = 0
    left_out: int = 0
    finding: str = ""
    spared: str = ""
    suspended: str = ""
    revision: int = 0
