"""What `secagg` costs the client and the server: `python benchmarks/secagg_pairwise.py`.

1000 clients, the graph that is planned for 5 % silent and 5 % colluding, one thread, CPU time of this
process and wall time; the best and the median of several. One round is run by every client, and ends twice:
with all vectors, and without those of 5 % of the clients. `finalise` begins with every survivor's answer
held: it opens the secrets, expands the masks and takes them off the sum, which is compared with the plain
one.

Where `flwr` can be imported, its own SecAgg+ functions are timed too, one call each, and multiplied by how
often its server would call each of them for the same ending: an estimate, its workflow is not run.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.core.secagg import sealing
from shared.core.secagg.pairwise import client, server, shamir
from shared.core.secagg.pairwise.client import Member
from shared.core.secagg.pairwise.graph import plan
from shared.core.secagg.pairwise.messages import Endorsement, Unmasking, endorsement_message
from shared.core.secagg.pairwise.terms import Terms

try:
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_subtraction
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
except ImportError:
    create_shares = None

CLIENTS, LOST, REPEATS = 1000, 50, 7
DIMENSIONS = (100_000, 1_000_000)
DESIGN_MS = {(100_000, 0): 74, (1_000_000, 0): 740, (100_000, LOST): 440, (1_000_000, LOST): 4400}


def measured(name: str, task: Callable[[], object], repeats: int = REPEATS) -> float:
    """Print CPU and wall milliseconds. Returns: the best CPU time."""
    cpu_ms, wall_ms = [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        task()
        cpu_ms.append((time.process_time() - cpu) * 1e3)
        wall_ms.append((time.perf_counter() - wall) * 1e3)
    print(
        f"  {name:46} CPU {min(cpu_ms):8.2f} (median {statistics.median(cpu_ms):8.2f})"
        f"   wall {min(wall_ms):8.2f} (median {statistics.median(wall_ms):8.2f})",
        flush=True,
    )
    return min(cpu_ms)


def key(name: str) -> Ed25519PrivateKey:
    """A signing key for a name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def terms_for(dimension: int) -> Terms:
    """1000 clients."""
    names = [f"client-{i:04}" for i in range(CLIENTS)]
    cohort = {name: key(name).public_key().public_bytes_raw() for name in names}
    planned = plan(CLIENTS, LOST / CLIENTS, 0.05)
    return Terms("job", "job-r1", "job-r1-g1", cohort, os.urandom(32), dimension, planned)


class Run:
    """All clients and the server, up to the masked vectors."""

    def __init__(self, terms: Terms) -> None:
        self.terms, self.names = terms, sorted(terms.cohort)
        base = np.random.default_rng(7).integers(0, 2**32, terms.dimension + CLIENTS, dtype=np.uint32)
        self.values = {name: base[i : i + terms.dimension] for i, name in enumerate(self.names)}
        phase: server.AnyPhase = server.start(terms)
        clients: dict[str, client.Phase] = {}
        for name in self.names:
            clients[name], said = client.start(Member(terms, name, key(name)), os.urandom)
            phase = server.receive(phase, said)
        phase, lists = phase.close()
        first = self.names[0]
        measured(
            f"client: share with {terms.plan.neighbours} neighbours",
            lambda: clients[first].share_keys(lists[first], os.urandom),
        )
        for name in self.names:
            clients[name], shares = clients[name].share_keys(lists[name], os.urandom)
            phase = server.receive(phase, shares)
        self.collecting, deliveries = phase.close()
        measured("client: mask", lambda: clients[first].mask(deliveries[first], self.values[first]))
        self.clients, self.masked = {}, {}
        for name in self.names:
            self.clients[name], self.masked[name] = clients[name].mask(deliveries[name], self.values[name])
        said = self.masked[first]
        measured("server: check and add one vector", lambda: self.collecting.receive(said))

    def ending(self, lost: int) -> server.Revealing:
        """The server with all answers, when the first `lost` clients sent no vector."""
        survivors = self.names[lost:]
        phase = self.collecting
        for name in survivors:
            phase = phase.receive(self.masked[name])
        endorsing, sets = phase.close()
        me = self.clients[survivors[0]]
        measured("client: endorse", lambda: me.endorse(sets[survivors[0]]), 3)
        for name in survivors[: self.terms.plan.quorum]:
            signed = endorsement_message(self.terms, name, self.collecting.roster, endorsing.survivors)
            endorsing = endorsing.receive(Endorsement(name, sealing.sign(key(name), signed)))
        revealing, endorsements = endorsing.close()
        endorsed, _ = me.endorse(sets[survivors[0]])
        measured("client: unmask", lambda: endorsed.unmask(endorsements), 3)
        alive = set(survivors)
        for name in survivors:  # as the client does once it has checked the endorsements
            held = self.clients[name].held
            of_self = {owner: shares.of_self for owner, shares in held.items() if owner in alive}
            of_key = {owner: shares.of_key for owner, shares in held.items() if owner not in alive}
            revealing = revealing.receive(Unmasking(name, of_self, of_key))
        return revealing

    def plain_sum(self, survivors: Iterable[str]) -> NDArray[np.uint32]:
        """(dimension,), modulo 2^32."""
        total = np.zeros(self.terms.dimension, np.uint32)
        for name in survivors:
            total += self.values[name]
        return total


def bench(dimension: int) -> None:
    """Print one block."""
    terms = terms_for(dimension)
    print(f"d = {dimension}")
    run = Run(terms)
    for lost in (0, LOST):
        revealing = run.ending(lost)

        def finalise(revealing: server.Revealing = revealing) -> object:
            shamir._weights.cache_clear()
            return revealing.close()

        best = measured(f"server: FINALISE, {lost} lost", finalise)
        design = DESIGN_MS[dimension, lost]
        print(f"    {best / design:.2f} times the design's {design} ms")
        result = revealing.close()
        assert (result.total == run.plain_sum(result.survivors)).all()
    flower(terms)


def flower(terms: Terms) -> None:
    """Print what Flower's functions would take for both endings, or that it is not there."""
    if create_shares is None:
        print("  flwr not installed")
        return
    threshold, dimension = terms.plan.threshold, terms.dimension
    shares = create_shares(os.urandom(32), threshold, terms.plan.neighbours + 1)[:threshold]
    private, other = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    vector = [np.zeros(dimension, np.int64)]

    def mask() -> None:
        parameters_subtraction(vector, pseudo_rand_gen(os.urandom(32), 1 << 32, [(dimension,)]))

    secret_ms = measured("flwr: combine_shares", lambda: combine_shares(shares), 3)
    key_ms = measured("flwr: generate_shared_key", lambda: generate_shared_key(private, other.public_key()))
    mask_ms = measured("flwr: pseudo_rand_gen, parameters_subtraction", mask)
    for lost in (0, LOST):
        gone = set(terms.names[:lost])
        pairs = sum(peer not in gone for name in gone for peer in terms.graph.around(name))
        total = CLIENTS * secret_ms + pairs * key_ms + (CLIENTS - lost + pairs) * mask_ms
        print(f"    flwr, {lost} lost: {total:.0f} ms estimated, of which {CLIENTS * secret_ms:.0f} secrets")


def main() -> None:
    """Print what is measured."""
    terms = terms_for(1)
    print(
        f"n = {CLIENTS}, {terms.plan.neighbours} neighbours, threshold {terms.plan.threshold}, quorum"
        f" {terms.plan.quorum}; milliseconds, one thread"
    )
    for dimension in [int(given) for given in sys.argv[1:]] or DIMENSIONS:
        bench(dimension)


if __name__ == "__main__":
    main()
