"""The same under `mpc3`: three parties sketch shares, one opens the Gram matrix, and one sum is opened."""

import os
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from secagg_mpc3 import key, parties_for, verify_key

from attacking.judging import GRAM_RULES, Judged
from shared.core.robust.gram import Root
from shared.core.secagg import sealing
from shared.core.secagg.encoding import Encoding, decode_sum, encode
from shared.core.secagg.mpc3 import accumulator, geometry, opening, party
from shared.core.secagg.mpc3.accumulator import Accumulator
from shared.core.secagg.mpc3.client import share
from shared.core.secagg.mpc3.party import Party
from shared.core.secagg.mpc3.selection import Selection
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.sessions.terms import LARGEST_WEIGHT

Rows = NDArray[np.float64]
SKETCH, BITS, OPENER = 1024, 16, 0
FLOOR = 8  # no sum in which fewer updates have a weight is opened


def terms_for(clients: int, dimension: int) -> Terms:
    """Of clients and, last, the root."""
    cohort = {name: verify_key(name) for name in (f"client-{i:04}" for i in range(clients + 1))}
    keys = tuple(verify_key(f"party {index}") for index in range(PARTIES))
    return Terms("job", "r", "g", cohort, keys, keys, dimension, SKETCH, OPENER, FLOOR, FLOOR, LARGEST_WEIGHT)


def judge(name: str, rows: Rows, own: Rows, f: int, bound: float, rng: np.random.Generator) -> Rows:
    """(d,): the update of a whole round of the protocol; the root's own row has weight 0.

    Args:
        name: of a rule on the Gram matrix.
        rows: (n, d).
        own: (d,), the server's.
        f: hostile clients.
        bound: on a coordinate, beyond it is clipped.
        rng: for a permutation.
    """
    clients, dimension = rows.shape
    terms, encoding = terms_for(clients, dimension), Encoding(dimension, BITS, bound)
    parties = parties_for(terms)
    held = [accumulator.empty(terms, one.secrets) for one in parties]
    payloads = {}
    for client, row in zip(terms.cohort, (*rows, own), strict=True):
        values = encode(encoding, row.astype(np.float32), 1.0, os.urandom).values
        payloads[client] = share(values, terms, client, key(client), os.urandom)
        for index in range(PARTIES):
            parties[index] = party.receive(parties[index], held[index], client, payloads[client][index])
    parties = _frozen(parties, held)
    given = {i: geometry.share_gram(parties[i], held[i]) for i in range(PARTIES) if i != OPENER}
    gram = geometry.open_gram(parties[OPENER], held[OPENER], given).astype(np.float64)
    root = Root(gram[:clients, clients], float(np.sqrt(gram[clients, clients])))
    of = Judged(f, root, rng.permutation(clients))
    weights = GRAM_RULES[name](gram[:clients, :clients], of).weights
    if not weights.any():
        return np.zeros(dimension)
    chosen = np.append(np.rint(weights / weights.max() * LARGEST_WEIGHT).astype(int), 0)
    total = _opened(parties, held, payloads, chosen.tolist())
    return decode_sum(encoding, total / LARGEST_WEIGHT * weights.max()).astype(np.float64)


def _signed(messages: list[bytes]) -> dict[int, bytes]:
    return {i: sealing.sign(key(f"party {i}"), message) for i, message in enumerate(messages)}


def _frozen(parties: list[Party], held: list[Accumulator]) -> list[Party]:
    parties = [party.close(one, of) for one, of in zip(parties, held, strict=True)]
    holdings = {one.index: party.holdings(one) for one in parties}
    settled = [party.settle(one, {i: h for i, h in holdings.items() if i != one.index}) for one in parties]
    signatures = _signed([one.survivors.message() for one in settled if one.survivors])
    return [party.freeze(one, signatures) for one in settled]


def _opened(
    parties: list[Party], held: list[Accumulator], payloads: dict[str, tuple[bytes, ...]], weights: list[int]
) -> Rows:
    """(d,): the weighted sum of encoded values; what has another than the commonest weight is sent again."""
    unit = Counter(weight for weight in weights if weight).most_common(1)[0][0]
    selection = Selection(party.frozen_set(parties[0]).digest, unit, tuple(weights))
    parties = [opening.choose(one, of, selection) for one, of in zip(parties, held, strict=True)]
    for index in range(PARTIES):
        for client in tuple(parties[index].pending):
            content = payloads[client][index]
            parties[index] = opening.correct(parties[index], held[index], client, content)
    signatures = _signed([selection.message()] * PARTIES)
    releases = {i: opening.release(parties[i], held[i], signatures, 0) for i in (1, 2)}
    return opening.open_sum(parties[0], held[0], signatures, releases).values.astype(np.float64)
