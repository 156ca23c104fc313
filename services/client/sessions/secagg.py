"""Protocol `secagg` at the client: one answer a stage, and from each phase only one."""

import numpy as np
from numpy.typing import NDArray

from services.client.sessions.base import ClientSession, Encoded, Position
from shared.core.randomness import RandomBytes
from shared.core.secagg.pairwise import client, codec, messages
from shared.core.secagg.pairwise.client import Member, Phase
from shared.core.secagg.pairwise.terms import TooFew
from shared.errors import Rejected
from shared.events.base import pack, unpack
from shared.sessions import pairwise as stages
from shared.sessions.terms import secagg_terms


class Masked(ClientSession):
    """The update under masks that cancel in the sum, or that neighbours help to take off.

    `Position.state` is the phase; between the roster and the upload also what neighbours sealed.
    """

    def begin(self, random_bytes: RandomBytes) -> Position:
        """As `ClientSession`. Draws the round's secrets and advertises their public side."""
        phase, advertisement = client.start(self._member(), random_bytes)
        return _answering(phase, stages.KEYS, advertisement)

    def advance(self, state: bytes, stage: str, payload: bytes, random_bytes: RandomBytes) -> Position:
        """As `ClientSession`. Raises: Rejected also for what would be a second answer from one phase."""
        phase, delivery = self._remembered(state)
        terms = phase.member.terms
        if stage == stages.NEIGHBOURS:
            keys = codec.from_bytes(messages.KeyList, payload, terms)
            phase, shares = phase.share_keys(keys, random_bytes)
            return _answering(phase, stages.SEALED_SHARES, shares)
        if stage == stages.ROSTER:
            codec.from_bytes(messages.Delivery, payload, terms)
            if delivery or not isinstance(phase, client.Shared):
                raise Rejected("a roster does not belong to this phase")
            return Position(_state(phase, payload), ready=True)
        if stage == stages.SURVIVORS:
            survivors = codec.from_bytes(messages.SurvivorSet, payload, terms)
            if len(survivors.survivors) < self.terms.plan.fewest:
                raise TooFew("survivors", len(survivors.survivors), self.terms.plan.fewest)
            phase, endorsement = phase.endorse(survivors)
            return _answering(phase, stages.ENDORSEMENT, endorsement)
        if stage == stages.ENDORSEMENTS:
            endorsements = codec.from_bytes(messages.Endorsements, payload, terms)
            phase, unmasking = phase.unmask(endorsements)
            return _answering(phase, stages.UNMASKING, unmasking)
        return super().advance(state, stage, payload, random_bytes)

    def encrypt(self, state: bytes, update: NDArray[np.float32], random_bytes: RandomBytes) -> Encoded:
        """As `ClientSession`."""
        phase, delivery = self._remembered(state)
        terms = phase.member.terms
        encoded = self.integers(update, random_bytes)
        values = encoded.values.view(np.uint32)  # modulo 2^32
        phase, masked = phase.mask(codec.from_bytes(messages.Delivery, delivery, terms), values)
        return Encoded(codec.to_bytes(masked, terms), _state(phase), encoded.clipped)

    def _member(self) -> Member:
        return Member(secagg_terms(self.terms), self.client_id, self.identity)

    def _remembered(self, state: bytes) -> tuple[Phase, bytes]:
        """The phase, and the delivery that came with the roster, if any."""
        content = unpack(state) if state else None
        if not isinstance(content, dict):
            raise Rejected("this client is not in the session any more")
        phase = codec.phase_from_bytes(self._member(), content["phase"])
        return phase, content["delivery"]


def _state(phase: Phase, delivery: bytes = b"") -> bytes:
    return pack({"phase": codec.phase_to_bytes(phase), "delivery": delivery})


def _answering(phase: Phase, stage: str, message: object) -> Position:
    said = codec.to_bytes(message, phase.member.terms)
    return Position(_state(phase), ((stage, said),), ready=False)
