"""A whole round of `secagg` in memory, from one seed."""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.core.secagg.pairwise import client, server
from shared.core.secagg.pairwise.client import Member
from shared.core.secagg.pairwise.graph import plan
from shared.core.secagg.pairwise.terms import Terms

STAGES = ("advertise", "share", "mask", "endorse", "unmask")


def bytes_from(*seed):
    """A stream of SHAKE-256 of a seed, for tests alone."""
    drawn = 0

    def random_bytes(size):
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(repr((*seed, drawn)).encode()).digest(size)

    return random_bytes


def names(count):
    return tuple(f"client-{index:03}" for index in range(count))


def identity_of(name):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def terms_for(count, dimension=4, planned=None, round_id="round"):
    cohort = {name: identity_of(name).public_key().public_bytes_raw() for name in names(count)}
    return Terms(
        "job",
        round_id,
        "group",
        cohort,
        b"public seed of this round, 32 B.",
        dimension,
        planned or plan(count, 0.3, 0),
    )


class Round:
    """Clients and server, stage by stage; `silent` names who says nothing from a stage on.

    Every message reaches the server in a random order; `heard` keeps them all, in that order.
    """

    def __init__(self, terms, seed, silent=None):
        self.terms, self.seed = terms, seed
        self.random = np.random.default_rng(seed)
        self.silent = silent or {}
        self.values = {
            name: self.random.integers(0, 2**32, terms.dimension, dtype=np.uint32)
            for name in sorted(terms.cohort)
        }
        self.phase = server.start(terms)
        self.clients, self.replies, self.heard = {}, {}, []

    def alive(self, stage):
        gone = {c for at in STAGES[: STAGES.index(stage) + 1] for c in self.silent.get(at, ())}
        return [name for name in sorted(self.terms.cohort) if name not in gone]

    def speak(self, stage, answers):
        """Let clients answer and the server hear them."""
        messages = {}
        for name in self.alive(stage):
            if name in answers:
                self.clients[name], messages[name] = answers[name]()
        for name in self.random.permutation(sorted(messages)):
            self.heard.append(messages[str(name)])
            self.phase = server.receive(self.phase, messages[str(name)])
        return messages

    def advertise(self):
        def begin(name):
            member = Member(self.terms, name, identity_of(name))
            return client.start(member, bytes_from(self.seed, name, "keys"))

        return self.speak("advertise", {name: lambda name=name: begin(name) for name in self.terms.cohort})

    def share(self):
        self.phase, lists = self.phase.close()

        def answer(name):
            return self.clients[name].share_keys(lists[name], bytes_from(self.seed, name, "shares"))

        return self.speak("share", {name: lambda name=name: answer(name) for name in lists})

    def mask(self):
        self.phase, self.deliveries = self.phase.close()

        def answer(name):
            return self.clients[name].mask(self.deliveries[name], self.values[name])

        return self.speak("mask", {name: lambda name=name: answer(name) for name in self.deliveries})

    def endorse(self):
        self.phase, self.sets = self.phase.close()
        return self.speak(
            "endorse",
            {name: lambda name=name: self.clients[name].endorse(self.sets[name]) for name in self.sets},
        )

    def unmask(self):
        self.phase, self.endorsements = self.phase.close()
        return self.speak(
            "unmask",
            {
                name: lambda name=name: self.clients[name].unmask(self.endorsements)
                for name in self.endorsements.signatures
            },
        )

    def until(self, stage):
        for name in STAGES[: STAGES.index(stage) + 1]:
            getattr(self, name)()
        return self

    def result(self):
        return self.until("unmask").phase.close()

    def plain_sum(self, survivors):
        return sum((self.values[name] for name in survivors), np.zeros(self.terms.dimension, np.uint32))
