"""What one party keeps of all uploads: sums, sketches and projections of shares; no share."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream
from shared.core.secagg.mpc3 import compiled, gram, shares, sketch
from shared.core.secagg.mpc3.gram import Gram
from shared.core.secagg.mpc3.messages import Payload
from shared.core.secagg.mpc3.secrets import Secrets, derived
from shared.core.secagg.mpc3.sketch import Sketch
from shared.core.secagg.mpc3.terms import Terms

_CHOICES = shares.PIECE // compiled.GROUP * compiled.GROUP_BYTES  # bytes for one piece, whole words


@dataclass(frozen=True)
class Accumulator:
    """Arrays that are written in place; n rows in the order of arrival.

    Attributes:
        totals: (2, d) uint64, the sums of the shares p and p + 1.
        sketch: the same for all uploads.
        gram: of the sketches.
        projections: (n, 2, ROWS) uint64 of each upload's two shares; n = 0 without a norm check.
    """

    totals: NDArray[np.uint64] = field(repr=False)
    sketch: Sketch
    gram: Gram = field(repr=False)
    projections: NDArray[np.uint64] = field(repr=False)


def empty(terms: Terms, secrets: Secrets) -> Accumulator:
    """What is kept of no upload: 16 d bytes, and n (16 k limbs + 8 n) for the Gram matrix."""
    checked = len(terms.cohort) if terms.norm_bound is not None else 0
    return Accumulator(
        np.zeros((2, terms.dimension), np.uint64),
        sketch.draw(secrets.sketch_seed, terms.dimension, terms.sketch_size),
        gram.empty(terms),
        np.zeros((checked, 2, compiled.ROWS), np.uint64),
    )


def absorb(held: Accumulator, party: int, row: int, payload: Payload, check_key: bytes) -> None:
    """Add an upload's two shares, in place, as row `row`.

    Args:
        held: with `row` rows before it.
        party: whose shares these are.
        row: of this upload.
        payload: checked.
        check_key: of this upload's projections.
    """
    size, dimension = held.sketch.size, held.totals.shape[1]
    choices = _choices(check_key, dimension) if len(held.projections) else None
    held.gram.sketches[:, row % gram.BLOCK] = 0
    contents = zip(shares.held_by(party), (payload.first, payload.second), strict=True)
    streams = zip(*(shares.pieces(index, content, dimension) for index, content in contents), strict=True)
    for start, pair in zip(range(0, dimension, shares.PIECE), streams, strict=True):
        chosen = next(choices) if choices is not None else None
        stop = start + len(pair[0])
        for slot, piece in enumerate(pair):
            total = held.totals[slot, start:stop]
            if size:
                rotations = held.sketch.rotations[start // size : -(-stop // size)]
                signs, into = held.sketch.signs[start:stop], held.gram.sketches[slot, row % gram.BLOCK]
                compiled.absorb(piece, signs, rotations, total, into)
            else:
                compiled.add(piece, 1, total)
            if chosen is not None:
                compiled.project(piece, chosen, held.projections[row, slot])
    if size:
        gram.extend(held.gram, row + 1)


def correct(held: Accumulator, party: int, payload: Payload, weight: int) -> None:
    """Add `weight` times the two shares of an upload that is in the sums already, in place."""
    dimension = held.totals.shape[1]
    for slot, content in enumerate((payload.first, payload.second)):
        index = shares.held_by(party)[slot]
        for number, piece in enumerate(shares.pieces(index, content, dimension)):
            start = number * shares.PIECE
            compiled.add(piece, weight, held.totals[slot, start : start + len(piece)])


def check_key_for(secrets: Secrets, upload_digest: bytes) -> bytes:
    """The key of one upload's projections: fixed by what the client committed to, and unknown to it."""
    return derived(secrets.check_key, b"projections", upload_digest)


def _choices(key: bytes, dimension: int) -> Iterator[NDArray[np.uint8]]:
    whole, rest = divmod(dimension, shares.PIECE)
    rest_bytes = -(-rest // compiled.GROUP) * compiled.GROUP_BYTES
    words = (whole * _CHOICES + rest_bytes + 7) // 8
    for piece in key_stream.pieces(key, words, _CHOICES // 8):
        yield piece.view(np.uint8)
