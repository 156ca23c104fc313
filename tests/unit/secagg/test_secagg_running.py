"""A session of `secagg` as the service runs it: whoever falls silent, and however often the service dies."""

import numpy as np
import pytest
from pairwise_round import names
from running_session import Run, rejected, terms_for

from services.secure_aggregation.protocols.base import UPLOAD, Failed
from services.secure_aggregation.protocols.secagg import STAGES
from shared.errors import Stale
from shared.sessions.terms import secagg_terms

THIRTY = terms_for("secagg", 30)


def fresh_seed():
    seed = int(np.random.SeedSequence().entropy % 2**32)
    print(f"seed {seed}")
    return seed


def some(count, seed):
    return tuple(str(name) for name in np.random.default_rng([seed, 1]).permutation(names(30))[:count])


def test_the_sum_is_that_of_all_updates():
    run = Run(THIRTY, fresh_seed())
    run.finish()
    run.check_sum()
    assert run.outcome.members == names(30)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lost", [1, 3, 6, 9])
def test_clients_that_fall_silent_in_any_stage_do_not_change_the_sum_of_the_others(stage, lost):
    seed = fresh_seed()
    gone = some(lost, seed)
    run = Run(THIRTY, seed, {stage: gone})
    outcome = run.finish()
    if lost > 3 and isinstance(outcome, Failed):  # more than the graph is planned for
        assert "needed" in outcome.reason
        assert any(name in outcome.reason for name in gone)
        assert not outcome.faulty
        return
    run.check_sum()
    before = STAGES.index(stage) <= STAGES.index(UPLOAD)
    assert outcome.members == tuple(name for name in names(30) if not before or name not in gone)
    for name in gone:
        assert stage in run.running.why_missing(name)


@pytest.mark.parametrize("places", [(0, 1, 2), (1, 2, 3), (2, 3, 4)])
def test_a_service_that_dies_in_each_stage_says_what_it_would_have_said(places):
    seed = fresh_seed()
    gone = some(3, seed)
    silent = {STAGES[place]: (name,) for place, name in zip(places, gone, strict=True)}
    calm, killed = Run(THIRTY, seed, silent), Run(THIRTY, seed, silent)
    calm.finish()
    killed.finish(killed=True)
    assert killed.session.decided == calm.session.decided
    calm.check_sum()
    assert (killed.outcome.total == calm.outcome.total).all()
    lost = {name for place, name in zip(places, gone, strict=True) if STAGES[place] in STAGES[:3]}
    assert calm.outcome.members == killed.outcome.members == tuple(n for n in names(30) if n not in lost)


def test_a_step_whose_commit_was_lost_is_taken_again_as_it_was():
    run = Run(THIRTY, fresh_seed())
    while run.outcome is None:
        before = run.session
        run.stage()
        if run.outcome is None:
            again = run.running.step(before, (), waited=False)
            assert (list(again.messages), again.stage) == (run.told, run.session.stage)
            assert again.decided == run.session.decided[before.stage]


def test_a_message_that_comes_again_is_taken_and_another_one_is_not():
    run = Run(THIRTY, fresh_seed())
    first, second = run.pending[:2]
    run.take(first)
    run.take(first)
    stage, name, _ = first
    assert "two things" in rejected(lambda: run.take((stage, name, second[2])))


def test_nobody_waits_for_a_client_that_sent_garbage_and_the_failure_names_it():
    run = Run(THIRTY, fresh_seed())
    run.gone = set(names(30)[10:])
    for said in run.pending[:9]:
        run.take(said)
    stage, name, _ = run.pending[9]
    rejected(lambda: run.take((stage, name, b"garbage")))
    step = run.running.step(run.session, (), waited=True)
    assert step.outcome.faulty == (name,)
    assert name in step.outcome.reason
    assert names(30)[10] in step.outcome.reason
    assert "garbage" not in run.running.why_missing(name)


@pytest.mark.parametrize("stage", STAGES)
def test_too_few_end_the_session_with_the_reason(stage):
    run = Run(THIRTY, fresh_seed(), {stage: names(30)[2:]})
    outcome = run.finish()
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith(f"{stage}: ")
    assert names(30)[2] in outcome.reason
    assert "more" in outcome.reason


def test_fewer_updates_than_the_job_allows_are_not_opened_by_the_server_or_a_client():
    terms = terms_for("secagg", 30, fewest=29)
    run = Run(terms, fresh_seed(), {UPLOAD: names(30)[:2]})
    outcome = run.finish()
    assert "28 of the 29 that are needed came" in outcome.reason

    run = Run(terms, fresh_seed(), {UPLOAD: names(30)[:2]})
    run.running.terms = terms_for("secagg", 30)  # a server that does not keep to it
    run.stage()
    run.stage()
    assert "28 of the 29" in rejected(run.stage)


def test_a_client_answers_once_from_a_phase():
    run = Run(THIRTY, fresh_seed())
    run.stage()
    run.stage()
    told = {message.recipient: message for message in run.told}
    name = names(30)[0]
    assert "does not belong to this phase" in rejected(lambda: run.clients[name].told(told[name]))


def test_messages_fit_for_a_thousand_clients():
    terms = terms_for("secagg", 1000)
    plan = secagg_terms(terms).plan
    bits, key = 125, 4 + 3 * 32 + 64
    key_list, endorsements = bits + plan.neighbours * key, bits + plan.quorum * 64
    assert max(key_list, endorsements) < 64 * 1024


def test_with_enough_uploads_the_stage_ends_and_a_late_one_is_in_no_sum():
    seed = fresh_seed()
    run = Run(THIRTY, seed)
    while run.session.stage != UPLOAD:
        run.stage()
    run.session = run.session.replace(enough=28)
    for count, said in enumerate(run.pending[:28], 1):
        assert run.running.step(run.session, (), waited=False) is None, count
        run.take(said)
    late = run.pending[28:]
    run.gone |= {name for _, name, _ in late}
    assert run.next_step(waited=False)
    with pytest.raises(Stale):
        run.take(late[0])
    run.pending = [
        answer for m in run.told if m.recipient not in run.gone for answer in run.clients[m.recipient].told(m)
    ]
    run.finish()
    run.check_sum()
    assert set(run.outcome.members) == set(names(30)) - run.gone
    assert "enough" in run.running.why_missing(late[0][1], early=True)
