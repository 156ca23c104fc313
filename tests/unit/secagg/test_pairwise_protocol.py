"""The sum opens to the plain one through losses, duplicates and any order, and below a threshold it says so."""

import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pairwise_round import STAGES, Round, names, terms_for
from scipy.stats import chisquare

from shared.core.secagg.pairwise import server
from shared.core.secagg.pairwise.graph import Plan
from shared.core.secagg.pairwise.terms import TooFew
from shared.errors import Rejected, Stale

GOLDEN = Path(__file__).parent / "golden" / "pairwise.json"
SPARSE = Plan(clients=20, colluding=0, lost=3, neighbours=4, threshold=3)


def fresh_seed():
    seed = int(np.random.SeedSequence().entropy % 2**32)
    print(f"seed {seed}")
    return seed


def some(seed, count, lost):
    chosen = np.random.default_rng(seed).choice(names(count), lost, replace=False)
    return frozenset(str(name) for name in chosen)


@pytest.mark.parametrize("dimension", [1, 1000])
@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_the_sum_is_the_plain_sum(count, dimension):
    run = Round(terms_for(count, dimension, None if count > 2 else Plan(2, 0, 0, 1, 2)), fresh_seed())
    result = run.result()
    assert result.survivors == names(count)
    assert (result.total == run.plain_sum(names(count))).all()
    assert result.wrong == {}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("count", "lost"), [(3, 1), (10, 1), (10, 3)])
def test_losses_at_every_stage_leave_the_sum_of_who_masked(count, lost, stage):
    seed = fresh_seed()
    gone = some(seed, count, lost)
    planned = Plan(3, 0, 1, 2, 2) if count == 3 else None
    run = Round(terms_for(count, 5, planned), seed, {stage: gone})
    result = run.result()
    masked = set(names(count)) - (gone if STAGES.index(stage) <= STAGES.index("mask") else set())
    assert set(result.survivors) == masked
    assert (result.total == run.plain_sum(masked)).all()


def test_losses_at_all_stages_together_on_a_sparse_graph():
    seed = fresh_seed()
    gone = sorted(some(seed, 50, 15))
    silent = {stage: gone[3 * i : 3 * i + 3] for i, stage in enumerate(STAGES)}
    terms = terms_for(50, 20)
    assert not terms.plan.complete
    run = Round(terms, seed, silent)
    result = run.result()
    masked = set(names(50)) - set(gone[:9])
    assert set(result.survivors) == masked
    assert (result.total == run.plain_sum(masked)).all()


@pytest.mark.parametrize("stage", STAGES)
def test_below_the_threshold_the_round_fails_and_says_how_many_are_missing(stage):
    seed = fresh_seed()
    run = Round(terms_for(10, 3), seed, {stage: some(seed, 10, 5)}).until(stage)
    with pytest.raises(TooFew) as failure:
        run.phase.close()
    assert (failure.value.present, failure.value.needed) == (5, 6)
    assert str(failure.value).endswith("5 of the 6 that are needed came, 1 missing")


def test_who_has_too_few_neighbours_leaves_before_masking_and_the_rest_go_on():
    terms = terms_for(20, 3, SPARSE)
    ring = terms.graph.ring
    run = Round(terms, fresh_seed(), {"share": (ring[1], ring[2], ring[18])})
    result = run.result()
    assert set(result.survivors) == {*ring[3:18]}  # ring[0] has one neighbour left, then ring[19] too
    assert (result.total == run.plain_sum(result.survivors)).all()


def test_who_has_too_few_neighbours_after_masking_fails_the_round():
    terms = terms_for(20, 3, SPARSE)
    ring = terms.graph.ring
    with pytest.raises(TooFew, match=f"{ring[0]}: 2 of the 3 that are needed came, 1 missing"):
        Round(terms, fresh_seed(), {"mask": (ring[1], ring[2], ring[18])}).result()


@pytest.mark.parametrize("stage", STAGES)
def test_a_message_that_comes_again_or_late_changes_nothing(stage):
    run = Round(terms_for(3, 3, Plan(3, 0, 1, 2, 2)), fresh_seed()).until(stage)
    for message in run.heard:
        with pytest.raises(Stale):
            server.receive(run.phase, message)


def test_a_message_ahead_of_its_phase_is_refused():
    run = Round(terms_for(3, 3, Plan(3, 0, 1, 2, 2)), fresh_seed()).until("unmask")
    with pytest.raises(Rejected, match="early"):
        server.receive(server.start(run.terms), run.heard[-1])


def test_the_sum_does_not_depend_on_the_order_of_arrival():
    seed = fresh_seed()
    totals = []
    for order in (1, 2):
        run = Round(terms_for(10, 50), seed)
        run.random = np.random.default_rng((seed, order))
        totals.append(run.result().total)
    assert (totals[0] == totals[1]).all()


def test_what_the_server_holds_before_unmasking_is_uniform():
    """Bytes of each masked vector of zeros, and of their sum; a false alarm once in 10^6 runs."""
    run = Round(terms_for(10, 4000), fresh_seed())
    run.values = {name: np.zeros(4000, np.uint32) for name in run.values}
    masked = run.until("endorse").heard
    vectors = [message.values for message in masked if hasattr(message, "values")]
    assert len(vectors) == 10
    for vector in (*vectors, run.phase.total):
        counts = np.bincount(np.frombuffer(vector.tobytes(), np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-7
    unmasked = sum(vectors, np.zeros(4000, np.uint32))
    assert (unmasked == run.phase.total).all()


def test_nobody_reveals_both_shares_of_one_client():
    seed = fresh_seed()
    run = Round(terms_for(10, 3), seed, {"mask": some(seed, 10, 3)})
    for message in run.until("unmask").heard[-7:]:
        assert not set(message.self_shares) & set(message.key_shares)
        assert set(message.self_shares) | set(message.key_shares) == set(names(10))


def test_the_server_holds_one_vector_whatever_the_size_of_the_cohort():
    run = Round(terms_for(10, 1000), fresh_seed()).until("mask")
    held = [getattr(run.phase, field.name) for field in fields(run.phase)]
    assert sum(value.nbytes for value in held if isinstance(value, np.ndarray)) == 4 * 1000


def test_a_wrong_share_is_named_if_it_stood_in_the_way_and_never_matters():
    """Six open a secret: the first six holders' shares are tried, the others' if that fails."""
    run = Round(terms_for(10, 5), fresh_seed()).until("unmask")
    victim = names(10)[7]
    for point, liar in enumerate(run.terms.graph.holders(victim), start=1):
        answer = run.phase.answers[liar]
        forged = replace(answer, self_shares={**answer.self_shares, victim: bytes(33)})
        result = replace(run.phase, answers={**run.phase.answers, liar: forged}).close()
        assert result.wrong == ({victim: (liar,)} if point <= 6 else {})
        assert (result.total == run.plain_sum(names(10))).all()


def test_a_wrong_share_of_a_lost_clients_key_is_named_too():
    lost = names(10)[2]
    run = Round(terms_for(10, 5), fresh_seed(), {"mask": (lost,)}).until("unmask")
    liar = run.terms.graph.holders(lost)[1]
    answer = run.phase.answers[liar]
    forged = replace(answer, key_shares={lost: bytes(33)})
    result = replace(run.phase, answers={**run.phase.answers, liar: forged}).close()
    assert result.wrong == {lost: (liar,)}
    assert (result.total == run.plain_sum(result.survivors)).all()


def test_a_wrong_share_without_a_spare_one_is_noticed():
    run = Round(terms_for(2, 5, Plan(2, 0, 0, 1, 2)), fresh_seed()).until("unmask")
    liar, victim = names(2)
    answer = run.phase.answers[liar]
    forged = replace(answer, self_shares={**answer.self_shares, victim: bytes(33)})
    with pytest.raises(Rejected, match=f"a secret of {victim}"):
        replace(run.phase, answers={**run.phase.answers, liar: forged}).close()


def test_masks_that_are_settled_as_answers_come_leave_the_same_sum():
    seed = fresh_seed()
    run = Round(terms_for(10, 5), seed, {"mask": some(seed, 10, 2)}).until("unmask")
    phase, opened = replace(run.phase, answers={}), set()
    for answer in run.phase.answers.values():
        phase = server.receive(phase, answer).settle()
        assert opened <= phase.masked.opened
        opened = phase.masked.opened
    assert opened == set(names(10))
    assert len(replace(phase, answers={}).masked.opened) == 10
    assert (replace(phase, answers={}).close().total == run.phase.close().total).all()
    assert (run.phase.close().total == run.plain_sum(run.phase.masked.survivors)).all()


def test_a_secret_that_does_not_open_yet_waits_for_more_answers():
    run = Round(terms_for(10, 5), fresh_seed()).until("unmask")
    victim = names(10)[7]
    holders = run.terms.graph.holders(victim)
    forged = replace(
        run.phase.answers[holders[0]],
        self_shares={**run.phase.answers[holders[0]].self_shares, victim: bytes(33)},
    )
    first = {**{name: run.phase.answers[name] for name in holders[1:6]}, holders[0]: forged}
    early = replace(run.phase, answers=first).settle()
    assert early.masked.opened == set(names(10)) - {victim}
    with pytest.raises(Rejected, match=f"a secret of {victim}"):
        early.close()
    later = server.receive(early, run.phase.answers[holders[6]]).close()
    assert later.wrong == {victim: (holders[0],)}
    assert (later.total == run.plain_sum(names(10))).all()


def plain(value):
    """A message as JSON: bytes and vectors in hex."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return value.astype("<u4").tobytes().hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return {name: plain(item) for name, item in sorted(value.items())}


def test_a_known_transcript():
    """Four clients, one lost after sharing. Written by `plain` once; a change here is a change of protocol."""
    run = Round(terms_for(4, 3, Plan(4, 0, 1, 3, 3)), 5, {"mask": names(4)[1:2]})
    result = run.result()
    heard = [{"kind": type(message).__name__, **plain(message)} for message in run.heard]
    transcript = {
        "terms": run.terms.digest.hex(),
        "ring": list(run.terms.graph.ring),
        "heard": sorted(heard, key=lambda message: (message["kind"], message["client_id"])),
        "total": plain(result.total),
    }
    assert (result.total == run.plain_sum(result.survivors)).all()
    assert transcript == json.loads(GOLDEN.read_text()), hashlib.sha256(repr(transcript).encode()).hexdigest()
