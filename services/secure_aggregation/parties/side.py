"""One party's side of one session in memory: every step may be repeated and then says the same."""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.core.secagg import sealing
from shared.core.secagg.mpc3 import accumulator, messages, opening, party, shares
from shared.core.secagg.mpc3.opening import Aggregate, release_from_bytes
from shared.core.secagg.mpc3.party import Party
from shared.core.secagg.mpc3.secrets import Secrets
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.errors import Rejected, Stale, Unavailable

# Without a Gram matrix and a norm check nothing is derived from the parties' secrets: none are agreed on.
NO_SECRETS = Secrets(b"", b"", (b"", b""))


class Side:
    """What one party knows of a session; nothing here is durable.

    Payloads are kept until the end: those that not all three parties hold have to be taken out of the sums
    again. That is 8 d bytes a client at the parties 1 and 2, and 64 bytes at party 0.

    Args:
        terms: as this party was told them, for a sum without Gram matrix and norm check.
        index: of the party.
        signing: the private half of its key in `terms`.
        allowed: the clients that it had closed with before it forgot everything; None before that.
    """

    def __init__(
        self, terms: Terms, index: int, signing: Ed25519PrivateKey, allowed: tuple[str, ...] | None = None
    ) -> None:
        if terms.sketch_size or terms.norm_bound is not None:
            raise Rejected("only sums are opened here: no Gram matrix, no norm check")
        self.terms, self.index, self.allowed = terms, index, allowed
        self._signing = signing
        self._party = Party(terms, index, NO_SECRETS)
        self._sums = accumulator.empty(terms, NO_SECRETS)
        self._payloads: dict[str, bytes] = {}

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
    def faults(self) -> Mapping[str, str]:
        """Why a client does not survive; empty before `agree`."""
        return self._party.faults

    def take(self, client: str, content: bytes) -> None:
        """Add an unsealed payload. Raises: Stale or Rejected as `party.receive`."""
        if self.allowed is not None and client not in self.allowed:
            raise Stale("this party closed without it")
        self._party = party.receive(self._party, self._sums, client, content)
        self._payloads[client] = content

    def close(self) -> bytes:
        """Take in no more; this party's holdings.

        Raises: Unavailable while uploads that it had closed with are being delivered again.
        """
        if self.allowed is not None and self.clients != frozenset(self.allowed):
            raise Unavailable("held uploads are being delivered again")
        self._party = party.close(self._party, self._sums)
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

    def choose(self, signatures: Mapping[int, bytes]) -> bytes:
        """Freeze what all three signed, and sign the plain sum over it: there is no other selection.

        Raises: Unavailable before `agree`; Rejected as `party.freeze`.
        """
        self.sign_survivors()
        self._party = party.freeze(self._party, signatures)
        self._party = opening.choose(self._party, self._sums, opening.everyone(self._party))
        for client in tuple(self._party.pending):
            self._party = opening.correct(self._party, self._sums, client, self._payloads[client])
        self._payloads.clear()
        if self._party.selection is None:
            raise Rejected("no selection")
        return sealing.sign(self._signing, self._party.selection.message())

    def release(self, signatures: Mapping[int, bytes], opener: int) -> bytes:
        """What the opener lacks. Raises: Unavailable before `choose`; Rejected as `opening.release`."""
        if self._party.selection is None:
            raise Unavailable("no selection is signed yet")
        return opening.release(self._party, self._sums, signatures, opener).to_bytes()

    def open(self, signatures: Mapping[int, bytes], releases: Mapping[int, bytes]) -> Aggregate:
        """The sum. Raises: Rejected as `opening.open_sum`."""
        given = {
            index: release_from_bytes(content, self.terms.dimension) for index, content in releases.items()
        }
        return opening.open_sum(self._party, self._sums, signatures, given)


def signatures_from(value: object) -> dict[int, bytes]:
    """Of all three parties, as they come over a link. Raises: Rejected for something else."""
    if not isinstance(value, dict) or set(value) != set(range(PARTIES)):
        raise Rejected("the signatures of three parties are needed")
    if not all(isinstance(signature, bytes) for signature in value.values()):
        raise Rejected("a signature is bytes")
    return value
