"""A whole round of `oneshot` in memory, from one seed."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.core.secagg import sealing
from shared.core.secagg.oneshot import committee, server
from shared.core.secagg.oneshot.client import Client, encrypt
from shared.core.secagg.oneshot.packed_shamir import scheme_for
from shared.core.secagg.oneshot.terms import Terms, public_polynomials


class SeededBytes:
    """SHAKE-256 of a seed, cut into consecutive pieces: for tests alone."""

    def __init__(self, *seed):
        self.seed, self.position = repr(seed).encode(), 0

    def __call__(self, count):
        self.position += count
        return hashlib.shake_256(self.seed).digest(self.position)[-count:]


def key_for(name):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def public(name):
    return key_for(name).public_key().public_bytes_raw()


def terms_for(clients, dimension, scheme=None, fewest=2, **other):
    scheme = scheme or scheme_for(4)
    names = [f"client-{i:04}" for i in range(clients)]
    terms = Terms(
        "job",
        "job-r1",
        "job-r1-g1",
        {name: public(name) for name in names},
        tuple(hashlib.sha256(b"holder %d" % i).digest() for i in range(scheme.holders)),
        public("server"),
        b"public seed",
        dimension,
        scheme,
        fewest,
    )
    return replace(terms, **other)


def values_for(seed, clients, dimension):
    """Uniform over all 16-bit values."""
    return np.random.default_rng(seed).integers(-(2**15), 2**15, (clients, dimension), dtype=np.int32)


def encrypted(terms, client_id, values, seed=0):
    return encrypt(Client(terms, client_id), values, key_for(client_id), SeededBytes(seed, client_id))


@dataclass
class Round:
    """All parties, and the steps that a test takes with them."""

    terms: Terms
    clients: dict
    session: server.Session
    total: np.ndarray
    holders: list

    @classmethod
    def of(cls, terms, values, seed=0):
        clients = {
            name: encrypted(terms, name, row, seed)
            for name, row in zip(sorted(terms.cohort), values, strict=True)
        }
        holders = [committee.Holder(terms, i) for i in range(terms.scheme.holders)]
        return cls(terms, clients, server.Session(terms), server.empty(terms), holders)

    def upload(self, *names):
        """These clients' ciphertexts reach the server, and their shares all holders."""
        for name in names:
            self.receive(name)
            self.deliver(name)

    def receive(self, name):
        self.session = server.receive(self.session, self.total, name, self.clients[name].upload)

    def deliver(self, name):
        shares = self.clients[name].shares
        self.holders = [
            committee.keep(holder, name, content)
            for holder, content in zip(self.holders, shares, strict=True)
        ]

    def freeze(self):
        self.session = server.freeze(self.session)
        return self.session.survivors

    def signature(self, survivors):
        return sealing.sign(key_for("server"), survivors.message())

    def ask(self, *indices, change=None):
        """These holders, or all, answer; `change` makes of an answer what the server sees."""
        survivors = self.session.survivors
        for index in indices or range(len(self.holders)):
            self.holders[index] = committee.respond(self.holders[index], survivors, self.signature(survivors))
            answer = self.holders[index].answer
            self.session = server.accept(self.session, change(answer) if change else answer)

    def finalise(self):
        return server.finalise(self.session, self.total, public_polynomials(self.terms))
