"""A worker's votes: paid for once, on losses that one record moves no further than is said."""

import secrets
from types import SimpleNamespace

import numpy as np
import pytest

from services.client import evaluating
from services.client.ledger import Entry, Ledger
from services.client.stopping import SENSITIVITY, Stopping, check, loss_steps
from shared.core.noise import KeyStream
from shared.errors import Refused
from shared.events.values import PoissonSampled
from shared.job.evaluation import evaluation_mechanism
from tests.unit.test_evaluation_plan import job

JOB = job(evaluation={"patience": 2, "stop_epsilon": 0.5})
PAID = PoissonSampled.of(evaluation_mechanism(JOB))
BEGUN = Stopping.begin("j", 0.5, KeyStream(secrets.token_bytes))


class Measuring:
    def __init__(self, records, loss):
        self.measured = np.tile([1.0, loss], (records, 1))

    def evaluate(self, task, progress, cancelled):
        return self.measured


def vote(stopping, loss, records=200):
    task = SimpleNamespace(specification=JOB, job_id="j", clip_norm=1.0, stopping=stopping)
    return evaluating.evaluate(Measuring(records, loss), task, None, lambda: False, secrets.token_bytes)


def ledger(*phases):
    entries = [
        Entry(round_id=f"j-r{number}", reservation_id=f"s{number}", mechanism=PAID, phase=phase)
        for number, phase in enumerate(phases, start=1)
    ]
    return Ledger(job_id="j", epsilon=8, delta=1e-5, announced=PAID, entries=tuple(entries))


def asked(steps):
    mechanism = PAID.model_copy(update={"steps": steps})
    return SimpleNamespace(kind="evaluate", reservation=SimpleNamespace(mechanism=mechanism))


def test_the_first_vote_is_charged_and_no_later_one_and_only_the_bit_leaves():
    first = vote(None, 5.0)
    second = vote(first.stopping, 5.0)
    assert (first.steps, second.steps) == (1, 0)
    assert first.noised
    assert second.noised
    assert first.update.tolist() == second.update.tolist() == [0, 1, 0]
    assert second.stopping.threshold == first.stopping.threshold
    assert len(second.stopping.losses) == 2


def test_losses_are_compared_with_those_of_patience_evaluations_ago():
    stopping = None
    fired = []
    for loss in (9.0, 0.0, 0.0, 9.0, 0.0):  # against None, None, 9, 0, and fired before
        found = vote(stopping, loss, records=256)
        stopping = found.stopping.replace(threshold=0)
        fired.append(bool(found.update[0]))
    assert fired[:3] == [False, False, False]
    assert fired[3:] == [True, True]


@pytest.mark.parametrize(
    ("stopping", "entries", "steps", "reason"),
    [
        (None, ("spent",), 1, "lost"),
        (None, ("spent",), 0, "lost"),
        (None, (), 0, "nothing is charged"),
        (None, ("released",), 0, "nothing is charged"),
        (BEGUN, (), 1, "not in its ledger"),
        (BEGUN, ("released",), 0, "not in its ledger"),
    ],
)
def test_a_vote_that_is_not_paid_for_or_whose_threshold_is_lost_is_refused(stopping, entries, steps, reason):
    with pytest.raises(Refused, match=reason):
        check(asked(steps), JOB, stopping, ledger(*entries))


def test_votes_that_are_paid_for_are_given():
    check(asked(1), JOB, None, ledger())
    check(asked(1), JOB, None, ledger("released"))
    check(asked(0), JOB, BEGUN, ledger("spent"))
    check(asked(1), JOB, BEGUN, ledger("spent"))  # who asks again does not know that it was


def test_one_record_more_moves_a_query_by_no_more_than_the_noise_is_for():
    seed = secrets.randbits(63)
    print("seed", seed)
    random, largest = np.random.default_rng(seed), 0
    for _ in range(300):
        contents = [random.bytes(8) for _ in range(int(random.integers(20, 120)))]
        losses = {content: random.choice([-5.0, 0.0, 10.0, 40.0, np.nan], 2) for content in contents}
        hold_out = evaluating.HoldOut(random.bytes(32), 0.5)

        def query(some, hold_out=hold_out, losses=losses):
            chosen = [losses[some[index]] for index in hold_out.asked(some, 10)]
            before, now = (
                loss_steps(np.array([[0.0, one[at]] for one in chosen]).reshape(-1, 2), JOB) for at in (0, 1)
            )
            return now - before

        largest = max(largest, abs(query(contents) - query(contents[1:])))
    assert SENSITIVITY / 2 < largest <= SENSITIVITY  # a displaced record moves it by more than one bound
