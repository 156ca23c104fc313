"""A whole round of `mpc3` in memory, from one seed: three parties, and all messages as bytes."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
from oneshot_round import SeededBytes, key_for, public

from shared.core.secagg import sealing
from shared.core.secagg.mpc3 import (
    accumulator,
    geometry,
    messages,
    norm_check,
    opening,
    party,
    secrets,
    shares,
)
from shared.core.secagg.mpc3.client import share
from shared.core.secagg.mpc3.party import Party
from shared.core.secagg.mpc3.selection import selection_from_bytes
from shared.core.secagg.mpc3.terms import Terms

THREE = range(3)


def terms_for(clients, dimension, **other):
    fields = {
        "job_id": "job",
        "round_id": "job-r1",
        "group_id": "job-r1-g1",
        "cohort": {name: public(name) for name in (f"client-{i:04}" for i in range(clients))},
        "party_keys": tuple(public(f"party {i}") for i in THREE),
        "seal_keys": tuple(hashlib.sha256(b"seal %d" % i).digest() for i in THREE),
        "dimension": dimension,
        "sketch_size": 64,
        "gram_opener": 0,
        "fewest_survivors": 2,
        "fewest_selected": 2,
    }
    return Terms(**fields | other)


def shared(terms, client_id, values, seed=0):
    return share(values, terms, client_id, key_for(client_id), SeededBytes(seed, client_id))


def raw_shares(terms, client_id, values, seed=0):
    """As a hostile client does it: any 64-bit values, signed."""
    draw = SeededBytes(seed, client_id)
    contents = [draw(32), draw(32)]
    words = np.asarray(values).astype(np.int64).view(np.uint64).copy()
    for index in (0, 1):
        words -= np.concatenate([piece.copy() for piece in shares.pieces(index, contents[index], len(words))])
    contents.append(draw(32) + shares.words_to_bytes(words))
    return signed_payloads(terms, client_id, contents)


def signed_payloads(terms, client_id, contents, given=None):
    """Payloads with `given` contents (or these), under a signature over `contents`."""
    commitments = tuple(shares.commitment(terms, i, content) for i, content in enumerate(contents))
    message = messages.upload_message(terms, client_id, commitments)
    receipt = messages.Receipt(commitments, sealing.sign(key_for(client_id), message))
    parts = given or contents
    return tuple(messages.Payload(receipt, *(parts[i] for i in shares.held_by(p))).to_bytes() for p in THREE)


def secrets_for(terms, seed=0):
    setups = [secrets.begin(terms, i, SeededBytes(seed, "party", i)) for i in THREE]
    commitments = {i: setups[i].commitment for i in THREE}
    openings = {(i, j): setups[i].opening(j, commitments) for i in THREE for j in THREE if i != j}
    return [
        secrets.finish(setups[j], commitments, {i: openings[i, j] for i in THREE if i != j}) for j in THREE
    ]


def sign(index, message):
    return sealing.sign(key_for(f"party {index}"), message)


@dataclass
class Round:
    """All parties, and the steps that a test takes with them. `sent` collects what parties sent each other."""

    terms: Terms
    payloads: dict
    parties: list
    held: list
    sent: dict = field(default_factory=dict)

    @classmethod
    def of(cls, terms, values, seed=0):
        payloads = {
            name: shared(terms, name, row, seed)
            for name, row in zip(sorted(terms.cohort), values, strict=True)
        }
        each = secrets_for(terms, seed)
        return cls(
            terms,
            payloads,
            [Party(terms, i, each[i]) for i in THREE],
            [accumulator.empty(terms, each[i]) for i in THREE],
        )

    def receive(self, index, name):
        content = self.payloads[name][index]
        self.parties[index] = party.receive(self.parties[index], self.held[index], name, content)

    def upload(self, *names):
        for name in names:
            for index in THREE:
                self.receive(index, name)

    def settle(self):
        self.parties = [party.close(p, held) for p, held in zip(self.parties, self.held, strict=True)]
        for i in THREE:
            self.sent["holdings", i] = party.holdings(self.parties[i]).to_bytes()
        for i in THREE:
            others = {j: messages.holdings_from_bytes(self.sent["holdings", j]) for j in THREE if j != i}
            self.parties[i] = party.settle(self.parties[i], others)

    def freeze(self):
        self.settle()
        signatures = {i: sign(i, self.parties[i].survivors.message()) for i in THREE}
        self.parties = [party.freeze(p, signatures) for p in self.parties]
        if self.terms.norm_bound is not None:
            self.check_norms()
        return self.parties[0].survivors

    def check_norms(self):
        steps = [norm_check.compare(p, held) for p, held in zip(self.parties, self.held, strict=True)]
        out = [next(step) for step in steps]
        self.sent["layers"] = [out]
        results = []
        while not results:
            answers = []
            for i in THREE:
                try:
                    answers.append(steps[i].send(out[(i + 1) % 3]))
                except StopIteration as stop:
                    results.append(stop.value)
            out = answers
            self.sent["layers"].append(out)
        opened = [norm_check.verdict(bits) for bits in results]
        self.parties = [
            norm_check.conclude(self.parties[i], results[i], opened[i - 1][0], opened[(i + 1) % 3][1])
            for i in THREE
        ]

    def gram(self):
        opener, clients = self.terms.gram_opener, len(party.members(self.parties[0]))
        given = {}
        for i in THREE:
            if i != opener:
                content = geometry.share_gram(self.parties[i], self.held[i]).to_bytes()
                self.sent["gram", i] = content
                given[i] = geometry.gram_share_from_bytes(content, clients)
        return geometry.open_gram(self.parties[opener], self.held[opener], given)

    def choose(self, weights=None, unit=1):
        selection = opening.everyone(self.parties[0])
        if weights is not None:
            selection = replace(selection, unit=unit, weights=tuple(int(w) for w in weights))
        selection = selection_from_bytes(selection.to_bytes())
        self.parties = [opening.choose(p, h, selection) for p, h in zip(self.parties, self.held, strict=True)]
        return {i: sign(i, self.parties[i].selection.message()) for i in THREE}

    def correct(self, parties=THREE):
        for i in parties:
            for name in list(self.parties[i].pending):
                content = self.payloads[name][i]
                self.parties[i] = opening.correct(self.parties[i], self.held[i], name, content)

    def open(self, signatures, opener=1, change=None):
        """`change` makes of a release what the opener sees."""
        given = {}
        for i in THREE:
            if i != opener:
                release = opening.release(self.parties[i], self.held[i], signatures, opener)
                content = (change(release) if change else release).to_bytes()
                self.sent["release", i] = content
                given[i] = opening.release_from_bytes(content, self.terms.dimension)
        return opening.open_sum(self.parties[opener], self.held[opener], signatures, given)

    def sum(self, weights=None, unit=1, opener=1):
        signatures = self.choose(weights, unit)
        self.correct()
        return self.open(signatures, opener)
