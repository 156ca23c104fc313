"""What `oneshot` costs the client and the server: `python benchmarks/secagg.py`.

1000 clients, a committee of 64 of the default sizes, one thread, CPU time of this process and wall time; the
best and the median of several. `client` is everything that it does but sealing its shares with HPKE, which is
timed beside it. `finalise` begins with a quorum of answers held: it rebuilds the sum of secrets, subtracts
a s and reads the values. `a` was expanded while uploads arrived. The sum is that of 1000
distinct uploads, and is compared with the plain one.
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
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.core.secagg import sealing
from shared.core.secagg.oneshot import committee, interpolation, messages, packed_shamir, ring, server
from shared.core.secagg.oneshot.client import Client, encrypt
from shared.core.secagg.oneshot.packed_shamir import scheme_for
from shared.core.secagg.oneshot.terms import Terms, public_polynomials

CLIENTS, HOLDERS, REPEATS = 1000, 64, 15
DIMENSIONS = (100_000, 1_000_000)


def measured(name: str, task: Callable[[], object], repeats: int = REPEATS) -> None:
    """Print CPU and wall milliseconds."""
    task()
    cpu_ms, wall_ms = [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        task()
        cpu_ms.append((time.process_time() - cpu) * 1e3)
        wall_ms.append((time.perf_counter() - wall) * 1e3)
    print(
        f"  {name:46} CPU {min(cpu_ms):7.2f} (median {statistics.median(cpu_ms):7.2f})"
        f"   wall {min(wall_ms):7.2f} (median {statistics.median(wall_ms):7.2f})"
    )


def key(name: str) -> Ed25519PrivateKey:
    """A signing key for a name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def verify_key(name: str) -> bytes:
    """Its public half."""
    return key(name).public_key().public_bytes_raw()


def terms_for(dimension: int) -> Terms:
    """1000 clients and the committee."""
    holder_keys = tuple(X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(HOLDERS))
    cohort = {name: verify_key(name) for name in (f"client-{i:04}" for i in range(CLIENTS))}
    return Terms(
        "job", "job-r1", "job-r1-g1", cohort, holder_keys, verify_key("server"), os.urandom(32), dimension,
        scheme_for(HOLDERS), CLIENTS // 2,
    )  # fmt: skip


def bench(dimension: int) -> None:
    """Print one block."""
    terms = terms_for(dimension)
    names = list(terms.cohort)
    values = np.random.default_rng(7).integers(-(2**15), 2**15, dimension, dtype=np.int32)
    client = encrypt(Client(terms, names[0]), values, key(names[0]), os.urandom)
    upload, shares = client.upload, client.shares
    assert upload is not None
    print(f"d = {dimension}: ciphertext {len(upload.ciphertext)} bytes, {HOLDERS} shares of {len(shares[0])}")
    signing = key(names[0])
    measured(
        "client: encrypt, share, sign",
        lambda: encrypt(Client(terms, names[0]), values, signing, os.urandom),
    )
    context = sealing.UploadContext(terms.job_id, terms.round_id, terms.group_id, names[0])
    measured(
        "client: seal the shares (HPKE, X25519)",
        lambda: [sealing.seal(s, k, context) for s, k in zip(shares, terms.holder_keys, strict=True)],
        5,
    )
    total = server.empty(terms)
    measured(
        "server: check and add one upload",
        lambda: server.receive(server.Session(terms), total, names[0], upload),
    )
    holder = committee.Holder(terms, 0)
    measured("holder: check and keep one share", lambda: committee.keep(holder, names[0], shares[0]))
    measured("server: expand a, before the last upload", lambda: public_polynomials(terms))
    finalise(terms)


def finalise(terms: Terms) -> None:
    """Sum 1000 uploads, each of its own secret, error and values, and time the opening."""
    scheme, dimension = terms.scheme, terms.dimension
    base = np.random.default_rng(7).integers(-(2**15), 2**15, dimension + CLIENTS, dtype=np.int32)
    plain = np.zeros(dimension, np.int64)
    session, total = server.Session(terms), server.empty(terms)
    blocks = scheme.blocks(ring.N)
    sums = [np.zeros(blocks, np.uint32) for _ in range(HOLDERS)]
    for i, name in enumerate(terms.cohort):
        values = base[i : i + dimension]
        client = encrypt(Client(terms, name), values, key(name), os.urandom)
        assert client.upload is not None
        session = server.receive(session, total, name, client.upload)
        plain += values
        for index, content in enumerate(client.shares):
            share = messages.share_from_bytes(content, blocks, index, HOLDERS)
            sums[index] = packed_shamir.add(sums[index], share.values)
    session = server.freeze(session)
    public = public_polynomials(terms)
    for answered in (scheme.quorum, HOLDERS):
        held = replace(session, answers=dict(enumerate(sums[:answered])))

        def task(held: server.Session = held) -> server.Aggregate:
            interpolation.basis.cache_clear()
            return server.finalise(held, total, public)

        measured(f"server: FINALISE with {answered} answers", task)
        aggregate = task()
    error = float((aggregate.values - plain).std())
    print(f"  error of the sum: {error:.2f} steps of 16 bits, {aggregate.standard_error:.2f} predicted")


def main() -> None:
    """Print what is measured."""
    scheme = scheme_for(HOLDERS)
    print(
        f"n = {CLIENTS}; committee of {HOLDERS}: {scheme.colluding} may collude, {scheme.lost} be lost,"
        f" quorum {scheme.quorum}, {scheme.pack} secrets a polynomial; milliseconds, one thread"
    )
    for dimension in DIMENSIONS:
        bench(dimension)


if __name__ == "__main__":
    main()
