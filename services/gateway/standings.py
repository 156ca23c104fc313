"""What the gateway knows of clients that keep being left out of a job, projected from events.

As with all views, notices may come twice and in any order: the standing of the highest revision holds.
"""

from typing import Any, ClassVar

from shared.events import ClientReinstated, ClientSuspended, judgements
from shared.events.judgements import Change
from shared.ports import State


class StandingView(State):
    """One client in one job; `changes` by revision."""

    kind: ClassVar[str] = "gateway.standing"

    job_id: str
    client_id: str
    standing: judgements.Standing = judgements.Standing()
    changes: dict[int, Change] = {}

    @property
    def key(self) -> tuple[str, ...]:
        """The job and the client."""
        return (self.job_id, self.client_id)


def updated(view: StandingView, standing: judgements.Standing) -> StandingView:
    """A round has judged the client."""
    return view.replace(standing=standing) if standing.revision > view.standing.revision else view


def suspended(view: StandingView, event: ClientSuspended) -> StandingView:
    """The client is asked no more."""
    score = event.standing.score
    change = Change(to="suspended", by=event.suspended_by, reason=event.reason, score=score, at=event.at)
    return _changed(view, event.standing, change)


def reinstated(view: StandingView, event: ClientReinstated) -> StandingView:
    """The client is asked again."""
    score = event.before.score
    change = Change(to="reinstated", by=event.reinstated_by, reason=event.reason, score=score, at=event.at)
    return _changed(view, event.standing, change)


def shown(view: StandingView) -> dict[str, Any]:
    """As the API answers."""
    standing = view.standing
    return {
        "client_id": view.client_id,
        "score": standing.score,
        "rounds_judged": standing.judged,
        "times_left_out": standing.left_out,
        "last_finding": standing.finding,
        "suspended": standing.suspended,
        "spared": standing.spared,
        "changes": [view.changes[number].model_dump(mode="json") for number in sorted(view.changes)],
    }


def ranked(views: list[StandingView]) -> list[dict[str, Any]]:
    """As the API answers for a job: suspended clients first, then the highest score first."""
    order = sorted(
        views, key=lambda view: (not view.standing.suspended, -view.standing.score, view.client_id)
    )
    return [shown(view) for view in order]


def _changed(view: StandingView, standing: judgements.Standing, change: Change) -> StandingView:
    return updated(view.replace(changes={**view.changes, standing.revision: change}), standing)
