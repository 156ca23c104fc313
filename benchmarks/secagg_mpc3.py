"""What `mpc3` costs the client and one of the three parties: `python benchmarks/secagg_mpc3.py`.

1000 clients, one thread, CPU time of this process and wall time; the best and the median of several. The
parties 1 and 2 read one share of 8 d bytes and expand one seed; party 0 expands two. The Gram matrix of the
last 32 uploads is what remains when all others were multiplied as they came; `select` is Multi-Krum on the
opened matrix. Subtracting 300 rejected updates is timed on ten, of one share read and one seed, and
multiplied. Sums and matrices are compared with the plain ones of 40 uploads.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.core.secagg import sealing
from shared.core.secagg.mpc3 import accumulator, geometry, gram, norm_check, opening, party, secrets
from shared.core.secagg.mpc3.client import share
from shared.core.secagg.mpc3.messages import Receipt, SurvivorSet, payload_from_bytes
from shared.core.secagg.mpc3.party import Party
from shared.core.secagg.mpc3.terms import PARTIES, SMALL_NORM, Terms

CLIENTS, REPEATS, COMPARED, REJECTED = 1000, 15, 40, 300
DIMENSIONS = (100_000, 1_000_000)
SETTINGS = ((512, SMALL_NORM), (512, None), (1024, SMALL_NORM), (1024, None))


def measured(name: str, task: Callable[[], object], repeats: int = REPEATS, times: float = 1.0) -> None:
    """Print CPU and wall milliseconds, multiplied by `times`."""
    task()
    cpu_ms, wall_ms = [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        task()
        cpu_ms.append((time.process_time() - cpu) * 1e3 * times)
        wall_ms.append((time.perf_counter() - wall) * 1e3 * times)
    print(
        f"  {name:58} CPU {min(cpu_ms):7.2f} (median {statistics.median(cpu_ms):7.2f})"
        f"   wall {min(wall_ms):7.2f} (median {statistics.median(wall_ms):7.2f})",
        flush=True,
    )


def key(name: str) -> Ed25519PrivateKey:
    """A signing key for a name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def verify_key(name: str) -> bytes:
    """Its public half."""
    return key(name).public_key().public_bytes_raw()


def terms_for(dimension: int, sketch_size: int, norm_bound: int | None) -> Terms:
    """1000 clients and three parties."""
    cohort = {name: verify_key(name) for name in (f"client-{i:04}" for i in range(CLIENTS))}
    keys = tuple(verify_key(f"party {index}") for index in range(PARTIES))
    return Terms(
        "job", "job-r1", "job-r1-g1", cohort, keys, keys, dimension, sketch_size, 0, 2, 2, 1, norm_bound
    )


def parties_for(terms: Terms) -> list[Party]:
    """Three parties with their secrets."""
    setups = [secrets.begin(terms, index, os.urandom) for index in range(PARTIES)]
    commitments = {setup.party: setup.commitment for setup in setups}
    parties = []
    for setup in setups:
        others = [other for other in setups if other is not setup]
        openings = {other.party: other.opening(setup.party, commitments) for other in others}
        parties.append(Party(terms, setup.party, secrets.finish(setup, commitments, openings)))
    return parties


def bench_updates(dimension: int) -> None:
    """The client, and one upload at a party."""
    terms = terms_for(dimension, 512, None)
    name, signing = "client-0000", key("client-0000")
    values = np.random.default_rng(7).integers(-(2**15), 2**15, dimension, dtype=np.int32)
    payloads = share(values, terms, name, signing, os.urandom)
    print(f"d = {dimension}: payloads of {', '.join(str(len(content)) for content in payloads)} bytes")
    measured("client: share, commit, sign", lambda: share(values, terms, name, signing, os.urandom))
    for size, norm_bound in ((512, None), (512, SMALL_NORM), (0, None)):
        of = terms_for(dimension, size, norm_bound)
        content = share(values, of, name, signing, os.urandom)
        for index in (0, 1):
            one = parties_for(of)[index]
            held = accumulator.empty(of, one.secrets)
            check = accumulator.check_key_for(one.secrets, bytes(32))
            payload = payload_from_bytes(content[index], index, dimension)
            label = f"party {index}, k = {size}, norm check {'on' if norm_bound else 'off'}"
            measured(f"{label}: add an update", lambda: accumulator.absorb(held, index, 0, payload, check))  # noqa: B023 - called at once
            if size and norm_bound is None:
                measured(f"{label}: check and add", lambda: party.receive(one, held, name, content[index]))  # noqa: B023 - called at once
    one = parties_for(terms)[1]
    held = accumulator.empty(terms, one.secrets)
    one = party.receive(one, held, name, payloads[1])
    one = replace(one, pending={name: -1})
    payload = payload_from_bytes(payloads[1], 1, dimension)
    tens = REJECTED / 10
    measured(
        f"party 1: subtract {REJECTED} delivered again",
        lambda: [accumulator.correct(held, 1, payload, -1) for _ in range(10)],
        5,
        tens,
    )
    measured(
        "party 1: the same, with SHA-256 of each",
        lambda: [opening.correct(one, held, name, payloads[1]) for _ in range(10)],
        5,
        tens,
    )


def krum(squared: np.ndarray, hostile: int) -> np.ndarray:
    """Weights of Multi-Krum from squared distances."""
    nearest = len(squared) - hostile - 2
    scores = np.partition(squared, nearest, axis=1)[:, : nearest + 1].sum(axis=1)
    weights = np.zeros(len(squared), np.int64)
    weights[np.argsort(scores)[: len(squared) - hostile]] = 1
    return weights


def bench_gram(size: int, norm_bound: int | None) -> None:
    """What does not depend on d: 1000 random sketches in place of those of updates."""
    terms = terms_for(1_000, size, norm_bound)
    rng = np.random.default_rng(8)
    receipts = {name: Receipt((bytes(32),) * 3, bytes(64)) for name in terms.cohort}
    survivors = SurvivorSet(terms.digest, tuple((name, bytes(32)) for name in sorted(terms.cohort)))
    parties = [
        replace(one, receipts=receipts, survivors=survivors, frozen=True, flagged=frozenset())
        for one in parties_for(terms)
    ]
    held = [accumulator.empty(terms, one.secrets) for one in parties]
    plain = rng.normal(0, 60, (CLIENTS, size)).astype(np.int64)
    parts = [rng.integers(0, 2**64, plain.shape, dtype=np.uint64) for _ in range(2)]
    parts.append(plain.view(np.uint64) - parts[0] - parts[1])
    for index in range(PARTIES):
        pair = np.stack((parts[index], parts[(index + 1) % PARTIES]))
        for stop in (*range(gram.BLOCK, CLIENTS, gram.BLOCK), CLIENTS):
            first = (stop - 1) // gram.BLOCK * gram.BLOCK
            held[index].gram.sketches[:, : stop - first] = pair[:, first:stop]
            gram.extend(held[index].gram, stop, last=True)
    bits = terms.gram_bits
    print(f"n = {CLIENTS}, k = {size}, modulo 2^{bits}")
    full = CLIENTS // gram.BLOCK * gram.BLOCK
    measured("party: Gram share of the last 32 rows", lambda: gram.extend(held[1].gram, full))
    for index in range(PARTIES):
        pair = np.stack((parts[index], parts[(index + 1) % PARTIES]))
        held[index].gram.sketches[:] = pair[:, full - gram.BLOCK : full]
        gram.extend(held[index].gram, full)
    measured("party: hide its share", lambda: geometry.share_gram(parties[1], held[1]))
    given = {index: geometry.share_gram(parties[index], held[index]) for index in (1, 2)}
    measured("opener: hide its own, add, open", lambda: geometry.open_gram(parties[0], held[0], given))
    matrix = geometry.open_gram(parties[0], held[0], given)
    assert (matrix == plain @ plain.T).all()
    squared = distances(matrix.astype(np.float64))
    measured("opener: squared distances", lambda: distances(matrix.astype(np.float64)))
    measured("opener: select by Multi-Krum", lambda: krum(squared, REJECTED))
    content = len(given[1].to_bytes())
    print(f"  message of {content} bytes; the matrix equals that of the plain sketches")
    if norm_bound is not None:
        bench_norm_check(parties, held)


def bench_norm_check(parties: list[Party], held: list[accumulator.Accumulator]) -> None:
    """All three parties of one process; a third of it is one party's."""
    unchecked = [replace(one, flagged=None) for one in parties]
    sent = [0]

    def task() -> None:
        steps = [norm_check.compare(one, of) for one, of in zip(unchecked, held, strict=True)]
        out, running = [next(step) for step in steps], True
        sent[0] = 0
        while running:
            sent[0] += len(out[0])
            answers = []
            for index, step in enumerate(steps):
                try:
                    answers.append(step.send(out[(index + 1) % PARTIES]))
                except StopIteration:
                    running = False
            out = answers

    measured(f"party: compare the projections of {CLIENTS} clients", task, 5, 1 / PARTIES)
    print(f"  {sent[0] / CLIENTS:.0f} bytes a client sent by each party")


def compare(dimension: int) -> None:
    """A whole round of 40 clients: the sum and the Gram matrix are the plain ones."""
    terms = replace(
        terms_for(dimension, 1024, None), cohort={f"c{i:02}": verify_key(f"c{i:02}") for i in range(COMPARED)}
    )
    rng = np.random.default_rng(9)
    base = rng.normal(0, 300, dimension)
    values = np.rint(base + rng.normal(0, 600, (COMPARED, dimension))).astype(np.int32)
    parties = parties_for(terms)
    held = [accumulator.empty(terms, one.secrets) for one in parties]
    for name, row in zip(terms.cohort, values, strict=True):
        for index, content in enumerate(share(row, terms, name, key(name), os.urandom)):
            parties[index] = party.receive(parties[index], held[index], name, content)
    parties = [party.close(one, of) for one, of in zip(parties, held, strict=True)]
    all_held = {one.index: party.holdings(one) for one in parties}
    for index, one in enumerate(parties):
        parties[index] = party.settle(one, {i: other for i, other in all_held.items() if i != index})
    survivors = parties[0].survivors
    assert survivors is not None
    signatures = {i: sealing.sign(key(f"party {i}"), survivors.message()) for i in range(PARTIES)}
    parties = [party.freeze(one, signatures) for one in parties]
    given = {index: geometry.share_gram(parties[index], held[index]) for index in (1, 2)}
    matrix = geometry.open_gram(parties[0], held[0], given).astype(np.float64)
    selection = opening.everyone(parties[0])
    parties = [opening.choose(one, of, selection) for one, of in zip(parties, held, strict=True)]
    signatures = {i: sealing.sign(key(f"party {i}"), selection.message()) for i in range(PARTIES)}
    measured(
        "party: release its share of the sum", lambda: opening.release(parties[1], held[1], signatures, 0)
    )
    releases = {i: opening.release(parties[i], held[i], signatures, 0) for i in (1, 2)}
    measured("opener: OPEN THE SUM", lambda: opening.open_sum(parties[0], held[0], signatures, releases))
    total = opening.open_sum(parties[0], held[0], signatures, releases)
    assert (total.values == values.sum(axis=0)).all()
    plain = values.astype(np.float64) @ values.T.astype(np.float64)
    pairs = np.triu_indices(COMPARED, 1)
    errors = distances(matrix)[pairs] / distances(plain)[pairs] - 1
    print(f"  the sum of {COMPARED} updates is exact; squared distances off by {errors.std():.2%} (k = 1024)")


def distances(matrix: np.ndarray) -> np.ndarray:
    """Squared, from a Gram matrix."""
    norms = np.diag(matrix)
    result: np.ndarray = norms[:, None] + norms[None] - 2 * matrix
    return result


def main() -> None:
    """Print what is measured."""
    print("milliseconds, one thread")
    for dimension in DIMENSIONS:
        bench_updates(dimension)
        compare(dimension)
    for size, norm_bound in SETTINGS:
        bench_gram(size, norm_bound)


if __name__ == "__main__":
    main()
