"""Checking on shares that no upload is far too long, and opening one bit for each client.

Each upload is projected onto `ROWS` random vectors, drawn from a secret of the parties and the hash of what
the client committed to. All vectors have the same random signs, and each leaves out half of the coordinates
at random: with and without a coordinate, a projection differs by that coordinate, so that one of 2^63, whose
double is 0, is found like any other. (With signs alone, two of 2^63 vanish.) The projections are compared
with a bound as boolean shares, without showing them. It is a check, not a proof:

- an upload within `norm_bound` L is flagged with probability below 2 ROWS exp(-36) = 2e-14 (Hoeffding);
- one with a coordinate of 2 tau and more passes with 2^-ROWS at most, tau being the power of two from 6 L up;
- a longer one passes the less the longer it is; one of norm 2 L usually passes.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.mpc3 import zeros
from shared.core.secagg.mpc3.accumulator import Accumulator
from shared.core.secagg.mpc3.compiled import ROWS
from shared.core.secagg.mpc3.messages import HASH_BYTES
from shared.core.secagg.mpc3.party import Party, frozen_set
from shared.core.secagg.mpc3.shares import held_by, words_from_bytes, words_to_bytes
from shared.core.secagg.mpc3.terms import PARTIES, bound_bits
from shared.errors import Rejected, Stale

Words = NDArray[np.uint64]
Layers = Generator[bytes, bytes, Words]
_STEP_BYTES = 2
_ONE = np.uint64(1)


@dataclass
class _Gates:
    """AND gates, layer by layer; each layer is one message to the party before this one."""

    party: Party
    context: bytes
    step: int = 0

    def both(self, left: Words, right: Words) -> Layers:
        """Boolean shares of left AND right, (2, m). Source: Araki et al. 2016, CCS, Section 2.3."""
        self.step += 1
        step = self.step.to_bytes(_STEP_BYTES, "big")
        own = (left[0] & right[0]) ^ (left[0] & right[1]) ^ (left[1] & right[0])
        own ^= zeros.exclusive(self.party.secrets.key_for(b"and", self.context, step), len(own))
        answer = yield self.context + step + words_to_bytes(own)
        if answer[: HASH_BYTES + _STEP_BYTES] != self.context + step:
            raise Rejected(f"party {held_by(self.party.index)[1]} is at another step of the norm check")
        return np.stack((own, words_from_bytes(answer[HASH_BYTES + _STEP_BYTES :], len(own))))

    def any_bit(self, words: Words) -> Layers:
        """Boolean shares of words whose lowest bit is the OR of all bits."""
        for shift in (32, 16, 8, 4, 2, 1):
            upper = words >> np.uint64(shift)
            words = words ^ upper ^ (yield from self.both(words, upper))
        lowest: Words = words & _ONE
        return lowest


def compare(party: Party, held: Accumulator) -> Layers:
    """Compare all survivors' projections with the bound, in about 20 rounds for all clients together.

    It yields what is to be sent to the party before this one (p - 1), and is sent what came from the party
    after it. No message says anything by itself: each is hidden behind a share of zero.
    A round runs it once. Again, with other answers from a neighbour that lies, it would hide other words
    behind the same shares of zero: a party that loses its state on the way gives the round up.

    Returns: (2, m) boolean shares of one bit for each survivor, for `verdict`.
    Raises: Rejected before the freeze, without a norm bound, or for a message of another step or length.
    """
    uploads = frozen_set(party).uploads
    if party.terms.norm_bound is None:
        raise Rejected("the terms have no norm bound")
    gates = _Gates(party, frozen_set(party).digest)
    row_of = {client: row for row, client in enumerate(party.receipts)}
    rows = [row_of[client] for client, _ in uploads]
    own = held.projections[rows].transpose(1, 0, 2).reshape(2, -1)
    bits = bound_bits(party.terms.norm_bound)
    total = yield from _sum(gates, own, 2**bits)
    outside = yield from gates.any_bit(total >> np.uint64(bits + 1))
    by_client = outside.reshape(2, len(rows), ROWS) << np.arange(ROWS, dtype=np.uint64)
    return (yield from gates.any_bit(np.bitwise_xor.reduce(by_client, axis=2)))


def _sum(gates: _Gates, own: Words, offset: int) -> Layers:
    """Boolean shares of the sum of three numbers, each of which two parties know, plus a public one.

    Three numbers become two (a carry-save adder), and two become one (Kogge and Stone 1973).
    """
    numbers = [np.zeros_like(own) for _ in range(PARTIES)]
    for slot, share in enumerate(held_by(gates.party.index)):
        numbers[share][slot] = own[slot] + np.uint64(offset if share == 0 else 0)
    first, second, third = numbers
    total = first ^ second ^ third
    majority = yield from gates.both(first ^ second, first ^ third)
    carry = (majority ^ first) << _ONE
    propagate = total ^ carry
    generate = yield from gates.both(total, carry)
    spread, count = propagate, own.shape[1]
    for shift in (1, 2, 4, 8, 16, 32):
        by = np.uint64(shift)
        products = yield from gates.both(
            np.hstack((spread, spread)), np.hstack((generate << by, spread << by))
        )
        generate, spread = generate ^ products[:, :count], products[:, count:]
    result: Words = propagate ^ (generate << _ONE)
    return result


def verdict(bits: Words) -> tuple[bytes, bytes]:
    """What opens the bits: a message for the party after this one, and one for the party before it."""
    return words_to_bytes(bits[0]), words_to_bytes(bits[1])


def conclude(party: Party, bits: Words, from_before: bytes, from_after: bytes) -> Party:
    """Open the bits, which both other parties sent, and leave out who is flagged.

    Raises: Stale when it has concluded; Rejected when the two sent different bits: one of them lies.
    """
    if party.flagged is not None:
        raise Stale(f"party {party.index} has concluded")
    if from_before != from_after:
        raise Rejected("the other two parties opened different bits")
    opened = bits[0] ^ bits[1] ^ words_from_bytes(from_before, bits.shape[1])
    pairs = zip(frozen_set(party).uploads, opened, strict=True)
    return replace(party, flagged=frozenset(client for (client, _), bit in pairs if bit & _ONE))
