"""How often a client is left out of a job for what it sent, beside what is expected of one among equals.

Pure. A round gives each client that was judged x = 1 if it was left out, 0 if not, and p, the share of those
judged that were left out. The score is the sum of x - p over rounds, divided by the root of the sum of
p (1 - p): a z-score.

Assumed: that clients are exchangeable, so that given how many are left out each is as likely as any other to
be one of them. Then x has mean p and variance p (1 - p) whatever the rule leaves out by construction, in
groups too, which are drawn anew in each round, and the score of an honest client stays around 0. That of one
that is always left out is sqrt((1 - p) / p) after a round, and grows like the root of the rounds.

A score is evidence, not proof. Honest clients with data unlike the others' are not exchangeable with them,
and can score as high as malicious ones. After few rounds, with few left out in each, scores are coarse: who
is the one of 30 by chance has more than 5 after that round. And whoever looks after every round, at many
clients, sees a high score sooner than a table of the normal distribution says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pydantic import AwareDatetime

from shared.events import UpdateAggregated, judgements
from shared.events.judgements import Change
from shared.ports import State

FEWEST_ROUNDS = 3  # that have judged a client, before it is suspended for its score


class Standing(State):
    """One client in one job.

    Attributes:
        excess: sum of x - p.
        variance: sum of p (1 - p).
        judged: rounds in these sums.
        left_out: of those, rounds with x = 1.
        finding: why, the last time.
        spared: why it is still asked though its score says otherwise.
        suspended: why it is not asked any more; empty while it is.
        revision: counts changes.
        changes: every suspension and reinstatement, oldest first.
    """

    kind: ClassVar[str] = "standing"

    job_id: str
    client_id: str
    excess: float = 0.0
    variance: float = 0.0
    judged: int = 0
    left_out: int = 0
    finding: str = ""
    spared: str = ""
    suspended: str = ""
    revision: int = 0
    changes: tuple[Change, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Job, client."""
        return (self.job_id, self.client_id)

    @property
    def score(self) -> float:
        """In standard deviations; 0 for a client that was never judged."""
        return self.excess / math.sqrt(self.variance) if self.variance else 0.0

    def due(self, limit: float) -> bool:
        """Whether the score has reached `limit` over rounds enough, and nothing follows from it yet."""
        return not self.suspended and self.judged >= FEWEST_ROUNDS and self.score >= limit

    def after(self, share: float, finding: str | None) -> Self:
        """One more round, in which `share` of those judged were left out; this one, if `finding` says why."""
        out = finding is not None
        return self.replace(
            excess=self.excess + out - share,
            variance=self.variance + share * (1 - share),
            judged=self.judged + 1,
            left_out=self.left_out + out,
            finding=self.finding if finding is None else finding,
            spared="",
            revision=self.revision + 1,
        )

    def suspend(self, reason: str, by: str, at: AwareDatetime) -> Self:
        """Not asked any more. `by` is a person, or empty for the score."""
        change = Change(to="suspended", by=by, reason=reason, score=self.score, at=at)
        return self.replace(
            suspended=f"suspended by {by}: {reason}" if by else f"suspended: {reason}",
            spared="",
            revision=self.revision + 1,
            changes=(*self.changes, change),
        )

    def reinstate(self, reason: str, by: str, at: AwareDatetime) -> Self:
        """Asked again, with a score that begins anew."""
        change = Change(to="reinstated", by=by, reason=reason, score=self.score, at=at)
        return type(self)(
            job_id=self.job_id,
            client_id=self.client_id,
            revision=self.revision + 1,
            changes=(*self.changes, change),
        )

    def value(self) -> judgements.Standing:
        """As events carry it."""
        return judgements.Standing(
            score=self.score,
            judged=self.judged,
            left_out=self.left_out,
            finding=self.finding,
            spared=self.spared,
            suspended=self.suspended,
            revision=self.revision,
        )


def findings_of(event: UpdateAggregated, root: str | None) -> dict[str, str | None]:
    """Each client whose update a round judged -> why it was left out; None for one that counts.

    What could not be taken counts as left out. Who sent nothing was not judged, nor was `root`, by whose
    update the others are measured.
    """
    reasons = {item.client_id: item.reason for item in event.left_out}
    found: dict[str, str | None] = {
        client: None if weight else reasons.get(client, "it has no weight")
        for client, weight in event.weights.items()
    }
    found |= {item.client_id: item.reason for item in event.left_out if item.sent_wrong}
    found.pop(root or "", None)
    return found


def judged_again(
    job_id: str, known: Mapping[str, Standing], findings: Mapping[str, str | None]
) -> dict[str, Standing]:
    """Standings after one more round, of those it judged; none where it left out nobody, or everybody.

    Args:
        job_id: of all of them.
        known: client -> its standing so far; a client that is not there has none.
        findings: as `findings_of`.
    """
    share = sum(finding is not None for finding in findings.values()) / max(1, len(findings))
    if not 0 < share < 1:
        return {}
    return {
        client: (known.get(client) or Standing(job_id=job_id, client_id=client)).after(share, finding)
        for client, finding in findings.items()
    }


@dataclass(frozen=True)
class Room:
    """How far scores may suspend.

    Attributes:
        candidates: clients that can be in a cohort.
        fewest: of them that a round needs.
        suspended: clients that are suspended already.
        malicious: that there may be, says the job.
    """

    candidates: frozenset[str]
    fewest: int
    suspended: int
    malicious: int

    def without(self, client: str) -> Self:
        """What is left once one more is suspended."""
        return replace(self, candidates=self.candidates - {client}, suspended=self.suspended + 1)

    def none_for(self, client: str) -> str:
        """Why this one may not be suspended; empty if it may."""
        if len(self.candidates - {client}) < self.fewest:
            return f"{len(self.candidates)} clients are left and {self.fewest} are needed"
        if self.suspended >= self.malicious:
            return f"{self.suspended} are suspended and at most {self.malicious} may be malicious"
        return ""


def suspended_by_score(
    standings: Mapping[str, Standing], limit: float, room: Room, at: AwareDatetime
) -> dict[str, Standing]:
    """Those whose score has reached `limit` are suspended, the highest first, while there is room; the rest
    are spared, and say why. A rule that leaves out f clients a round goes on to do so when the malicious ones
    are gone: without the bound of f, honest clients with unusual data would follow them one by one.

    Args:
        standings: client -> standing, of those judged in the latest round.
        limit: score from which a client is suspended.
        room: before that.
        at: now.

    Returns: the standings that change.
    """
    changed = {}
    due = [standing for standing in standings.values() if standing.due(limit)]
    for standing in sorted(due, key=lambda one: (-one.score, one.client_id)):
        client = standing.client_id
        why = (
            f"left out in {standing.left_out} of {standing.judged} rounds, score {standing.score:.2f} of "
            f"{limit:g}; the last time: {standing.finding}"
        )
        if no_room := room.none_for(client):
            changed[client] = standing.replace(spared=f"not suspended, since {no_room}: {why}")
            continue
        room = room.without(client)
        changed[client] = standing.suspend(why, "", at)
    return changed
