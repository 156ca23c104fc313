"""A server that is killed between any two steps goes on where it was: from its decisions and the messages."""

from collections.abc import Mapping

import numpy as np
import pytest
from pairwise_round import STAGES, Round, names, terms_for

from shared.core.secagg.pairwise import codec, server
from shared.core.secagg.pairwise.graph import Plan
from shared.errors import Rejected, Stale, Unavailable

TEN = Plan(10, 0, 3, 8, 6)
SILENT = {"share": names(10)[2:3], "mask": names(10)[5:6], "endorse": names(10)[7:8]}


def fresh_seed():
    seed = int(np.random.SeedSequence().entropy % 2**32)
    print(f"seed {seed}")
    return seed


def on_the_wire(out, terms):
    if isinstance(out, Mapping):
        return {name: codec.to_bytes(message, terms) for name, message in out.items()}
    return codec.to_bytes(out, terms)


class Recorded(Round):
    """A round that keeps what a server stores, and what it sent, stage by stage."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.decisions, self.sent = [], []

    def speak(self, stage, answers):
        said = super().speak(stage, answers)
        if stage != "unmask":
            self.decisions.append(self.phase.decide())
            self.sent.append(on_the_wire(self.phase.close()[1], self.terms))
        return said


def rebuilt(run, decisions, random):
    """A new server, given all messages in another order, and again while they are too early."""
    phase, sent = server.start(run.terms), []
    for decided in decisions:
        phase = server.replayed(phase, decided)
        phase = hear(phase, run.heard, random)
        phase, out = phase.close()
        sent.append(on_the_wire(out, run.terms))
    return hear(phase, run.heard, random), sent


def hear(phase, messages, random):
    for index in random.permutation(len(messages)):
        try:
            phase = server.receive(phase, messages[index])
        except (Stale, Unavailable, Rejected) as outcome:
            assert not isinstance(outcome, Rejected) or "is early" in str(outcome)
    return phase


@pytest.mark.parametrize("killed", range(5))
def test_a_killed_server_sends_the_same_bytes_and_opens_the_same_sum(killed):
    seed = fresh_seed()
    random = np.random.default_rng(seed)
    run = Recorded(terms_for(10, 20, TEN), seed, SILENT).until(STAGES[killed])
    run.phase, sent = rebuilt(run, run.decisions[:killed], random)
    assert sent == run.sent[:killed]
    for stage in STAGES[killed + 1 :]:
        getattr(run, stage)()
    assert (run.phase.close().total == run.plain_sum(run.phase.masked.survivors)).all()
    undisturbed = Recorded(terms_for(10, 20, TEN), seed, SILENT)
    assert (undisturbed.result().total == run.phase.close().total).all()
    assert undisturbed.sent == run.sent


@pytest.mark.parametrize("stage", range(4))
def test_who_came_after_a_decision_stays_out_when_it_is_replayed(stage):
    """All ten spoke in time for the new server, nine for the old one, whose decision stands."""
    run = Recorded(terms_for(10, 5, TEN), fresh_seed()).until(STAGES[stage])
    decided = tuple(name for name in run.decisions[stage] if name != names(10)[4])
    phase, _ = rebuilt(run, [*run.decisions[:stage], decided], np.random.default_rng(0))
    early, _ = rebuilt(run, run.decisions[:stage], np.random.default_rng(0))
    assert early.decide() == names(10)
    replayed = server.replayed(rebuilt_start(run, stage), decided)
    late = [m for m in run.heard if m.client_id == names(10)[4]][-1]
    with pytest.raises(Stale, match="after this phase was closed"):
        server.receive(replayed, late)
    assert type(phase) is not type(early)


def rebuilt_start(run, stage):
    """The phase of `stage`, which has heard nobody."""
    phase = server.start(run.terms)
    for decided in run.decisions[:stage]:
        phase, _ = hear(server.replayed(phase, decided), run.heard, np.random.default_rng(0)).close()
    return phase


def test_a_replay_waits_for_every_client_of_the_decision():
    run = Recorded(terms_for(10, 5, TEN), fresh_seed()).until("advertise")
    phase = server.replayed(server.start(run.terms), run.decisions[0])
    for message in run.heard[:-1]:
        phase = server.receive(phase, message)
    with pytest.raises(Unavailable, match=f"1 clients .* missing: {run.heard[-1].client_id}"):
        phase.close()
    assert on_the_wire(server.receive(phase, run.heard[-1]).close()[1], run.terms) == run.sent[0]


def test_a_message_of_the_next_stage_waits_while_this_one_is_replayed():
    run = Recorded(terms_for(10, 5, TEN), fresh_seed()).until("share")
    with pytest.raises(Rejected, match="is early"):
        server.receive(server.start(run.terms), run.heard[-1])
    with pytest.raises(Unavailable, match="is being replayed"):
        server.receive(server.replayed(server.start(run.terms), run.decisions[0]), run.heard[-1])


def test_a_stage_that_has_heard_someone_is_not_replayed():
    run = Recorded(terms_for(10, 5, TEN), fresh_seed()).until("mask")
    with pytest.raises(Rejected, match="from its start"):
        server.replayed(run.phase, run.decisions[2])
