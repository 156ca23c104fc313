"""One party's side of one session in memory: every step may be repeated and then says the same."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from services.secure_aggregation.parties.layers import Layers
from shared.core.randomness import RandomBytes
from shared.core.secagg import sealing
from shared.core.secagg.mpc3 import accumulator, geometry, messages, opening, party, secrets, shares
from shared.core.secagg.mpc3.accumulator import Accumulator
from shared.core.secagg.mpc3.opening import Aggregate, release_from_bytes
from shared.core.secagg.mpc3.party import Party
from shared.core.secagg.mpc3.secrets import Secrets
from shared.core.secagg.mpc3.selection import Selection
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.errors import Rejected, Stale, Unavailable

# Without a Gram matrix and a norm check nothing is derived from the parties' secrets: none are agreed on.
NO_SECRETS = Secrets(b"", b"", (b"", b""))
SECRETS = "mpc3-secrets"  # what its own part is drawn for


class Side:
    """What one party knows of a session; nothing here is durable.

    Payloads are kept until the selection: those whose weight is not its unit have to be delivered again. That
    is 8 d bytes a client at the parties 1 and 2, and 64 bytes at party 0. Those that come before the secrets
    stand wait here too.

    Args:
        terms: as this party was told them.
        index: of the party.
        signing: the private half of its key in `terms`.
        random_bytes: its part of the secrets; the same after a crash.
        allowed: the clients that it had closed with before it forgot everything; None before that.
    """

    def __init__(
        self,
        terms: Terms,
        index: int,
        signing: Ed25519PrivateKey,
        random_bytes: RandomBytes,
        allowed: tuple[str, ...] | None = None,
    ) -> None:
        self.terms, self.index, self.allowed = terms, index, allowed
        self.setup = secrets.begin(terms, index, random_bytes)
        self.layers: Layers | None = None
        self._signing = signing
        self._party = Party(terms, index, NO_SECRETS)
        self._sums = None if self.judging else accumulator.empty(terms, NO_SECRETS)
        self._payloads: dict[str, bytes] = {}
        self._waiting: dict[str, bytes] = {}
        self._summing = threading.Lock()  # a request that comes again may find its first thread at work

    @property
    def judging(self) -> bool:
        """Whether there are a Gram matrix and a norm check, and so secrets."""
        return bool(self.terms.sketch_size)

    @property
    def ready(self) -> bool:
        """Whether uploads are taken in at once."""
        return self._sums is not None

    @property
    def upload_bytes(self) -> int:
        """Of a payload for this party."""
        first, second = (shares.size_bytes(i, self.terms.dimension) for i in shares.held_by(self.index))
        return messages.RECEIPT_BYTES + first + second

    @property
    def clients(self) -> frozenset[str]:
        """Whose uploads are in the sums."""
        return frozenset(self._party.receipts)

    @property
    def closed(self) -> bool:
        """Whether no upload is taken in any more."""
        return self._party.closed

    @property
    def survivors_digest(self) -> bytes:
        """Of the set that this party agreed to; empty before."""
        return b"" if self._party.survivors is None else self._party.survivors.digest

    @property
    def survivors(self) -> tuple[str, ...]:
        """Of that set, ascending; empty before."""
        agreed = self._party.survivors
        return () if agreed is None else tuple(client for client, _ in agreed.uploads)

    @property
    def faults(self) -> Mapping[str, str]:
        """Why a client does not survive; empty before `agree`."""
        return self._party.faults

    @property
    def flagged(self) -> frozenset[str] | None:
        """Whom the norm check found too long; None before it."""
        return self._party.flagged

    def enter(self, commitments: Mapping[int, bytes], openings: Mapping[int, bytes]) -> dict[str, str]:
        """Compute the secrets, once, and take in what has waited for them.

        Returns: client -> why its upload was refused. Raises: Rejected as `secrets.finish`.
        """
        if self.ready:
            return {}
        known = secrets.finish(self.setup, commitments, openings)
        self._party, self._sums = replace(self._party, secrets=known), accumulator.empty(self.terms, known)
        refused = {}
        for client, content in self._waiting.items():
            try:
                self.take(client, content)
            except Rejected as error:
                refused[client] = str(error)
        self._waiting.clear()
        return refused

    def take(self, client: str, content: bytes) -> None:
        """Add an unsealed payload. Raises: Stale or Rejected as `party.receive`."""
        if self.allowed is not None and client not in self.allowed:
            raise Stale("this party closed without it")
        if self._sums is None:
            self._waiting[client] = content
            return
        self._party = party.receive(self._party, self._sums, client, content)
        self._payloads[client] = content

    def close(self) -> bytes:
        """Take in no more; this party's holdings.

        Raises: Unavailable while uploads that it had closed with are being delivered again.
        """
        if self.allowed is not None and self.clients != frozenset(self.allowed):
            raise Unavailable("held uploads are being delivered again")
        if not self.closed:
            self._party = party.close(self._party, self._held)
            self.allowed = tuple(sorted(self.clients))
        return party.holdings(self._party).to_bytes()

    def agree(self, others: Mapping[int, bytes]) -> None:
        """Compute the survivors from the other two's holdings, once. Raises: Rejected as `party.settle`."""
        if self._party.survivors is None:
            known = {index: messages.holdings_from_bytes(content) for index, content in others.items()}
            self._party = party.settle(self._party, known)

    def sign_survivors(self) -> bytes:
        """Its caller made `survivors_digest` durable. Raises: Unavailable before `agree`."""
        if self._party.survivors is None:
            raise Unavailable("the holdings are not compared yet")
        return sealing.sign(self._signing, self._party.survivors.message())

    def freeze(self, signatures: Mapping[int, bytes]) -> None:
        """Fix what all three signed, once. Raises: Unavailable before `agree`; Rejected as `party.freeze`."""
        self.sign_survivors()
        if not self._party.frozen:
            self._party = party.freeze(self._party, signatures)

    def begin_check(self) -> Layers:
        """Begin the norm check, once; its caller made that durable. Raises: Rejected before `freeze`."""
        if self.layers is None:
            self.layers = Layers(self._party, self._held)
        return self.layers

    def begun_check(self) -> Layers:
        """The norm check. Raises: Unavailable before `begin_check`."""
        if self.layers is None:
            raise Unavailable("the norm check has not begun")
        return self.layers

    def conclude(self, verdicts: dict[int, bytes]) -> None:
        """Open the norm check's bits, once. Raises: Rejected as `norm_check.conclude`; Unavailable before."""
        if self.flagged is None:
            self._party = self.begun_check().conclude(self._party, verdicts)

    def recall(self, flagged: Iterable[str]) -> None:
        """Take the norm check's result from before a crash."""
        self._party = replace(self._party, flagged=frozenset(flagged))

    @property
    def members(self) -> tuple[str, ...]:
        """Who is judged, ascending. Raises: Rejected before the norm check."""
        return party.members(self._party)

    def gram_share(self) -> bytes:
        """Give a hidden summand for party 0. Raises: Unavailable before `agree`; Rejected as `share_gram`."""
        self.sign_survivors()
        return geometry.share_gram(self._party, self._held).to_bytes()

    def open_gram(self, given: Mapping[int, bytes]) -> NDArray[np.int64]:
        """(m, m), in the order of `members`. Raises: Rejected as `open_gram`."""
        count = len(self.members)
        known = {i: geometry.gram_share_from_bytes(content, count) for i, content in given.items()}
        return geometry.open_gram(self._party, self._held, known)

    def everyone(self) -> Selection:
        """The plain sum. Raises: Rejected before `freeze`."""
        return opening.everyone(self._party)

    def choose(self, selection: Selection) -> bytes:
        """Sign a selection: its caller makes its digest durable before it sends that.

        Raises: Rejected as `opening.choose`.
        """
        with self._summing:
            self._party = opening.choose(self._party, self._held, selection)
            for client in tuple(self._party.pending):
                self._party = opening.correct(self._party, self._held, client, self._payloads[client])
            self._payloads.clear()
        return sealing.sign(self._signing, selection.message())

    def release(self, signatures: Mapping[int, bytes], opener: int) -> bytes:
        """What the opener lacks. Raises: Unavailable before `choose`; Rejected as `opening.release`."""
        with self._summing:
            if self._party.selection is None:
                raise Unavailable("no selection is signed yet")
            return opening.release(self._party, self._held, signatures, opener).to_bytes()

    def open(self, signatures: Mapping[int, bytes], releases: Mapping[int, bytes]) -> Aggregate:
        """The sum. Raises: Rejected as `opening.open_sum`."""
        given = {
            index: release_from_bytes(content, self.terms.dimension) for index, content in releases.items()
        }
        with self._summing:
            return opening.open_sum(self._party, self._held, signatures, given)

    @property
    def _held(self) -> Accumulator:
        if self._sums is None:
            raise Unavailable("the parties' secrets do not stand yet")
        return self._sums


def of_three(value: object, what: str) -> dict[int, bytes]:
    """Bytes of each party, as they come over a link. Raises: Rejected for something else."""
    if not isinstance(value, dict) or set(value) != set(range(PARTIES)):
        raise Rejected(f"the {what} of three parties are needed")
    if not all(isinstance(content, bytes) for content in value.values()):
        raise Rejected(f"the {what} of three parties are bytes")
    return value
