"""What a dedicated key holder does: keep shares, answer once, and forget what nobody asked for."""

from dataclasses import dataclass
from datetime import timedelta

from shared.core.secagg.sealing import SealingKey, key_message, sign
from shared.errors import Rejected
from shared.events import DeadlinePassed, HolderSeen, StageBegun
from shared.ports import UnitOfWork
from shared.service import Handlers
from shared.sessions.holding import RELEASE, Keeper
from shared.sessions.terms import SessionTerms

FORGET = "forget"
ANSWERED_KEEP_S = 60.0


@dataclass(frozen=True)
class Holding:
    """The keeper, its sealing key, and its owner's bounds."""

    keeper: Keeper
    sealing_key: SealingKey
    keep_s: float

    def seen(self) -> HolderSeen:
        """How it announces itself."""
        public, keeper = self.sealing_key.public, self.keeper
        return HolderSeen(
            client_id=keeper.holder_id,
            verify_key=keeper.identity.public_key().public_bytes_raw(),
            sealing_key=public,
            sealing_signature=sign(keeper.identity, key_message("", keeper.holder_id, public)),
        )


async def on_stage_begun(event: StageBegun, unit: UnitOfWork, context: Holding) -> None:
    """Keep shares, or answer for a survivor set."""
    await context.keeper.on_stage_begun(event, unit)
    session = (event.job_id, event.round_id, event.group_id)
    keep_s = ANSWERED_KEEP_S if event.stage == RELEASE else context.keep_s
    await unit.schedule(FORGET, session, unit.now + timedelta(seconds=keep_s))


async def on_deadline_passed(event: DeadlinePassed, unit: UnitOfWork, context: Holding) -> None:
    """Drop the shares of a session that nobody ended."""
    await context.keeper.forget(event.subject, unit)


async def check_terms(terms: SessionTerms, fewest: int) -> None:
    """Raises: Rejected for a session that opens smaller sums than this holder's owner allows."""
    if terms.plan.fewest < fewest:
        raise Rejected(f"the session opens sums of {terms.plan.fewest}, this key holder of {fewest} and more")


HANDLERS: Handlers[Holding] = {StageBegun: on_stage_begun, DeadlinePassed: on_deadline_passed}
