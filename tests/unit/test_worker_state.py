from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from services.client import state
from services.client.state import LocalJob, LocalRound, Pinned
from shared.errors import Refused, Rejected, Stale
from shared.events import RoundStarted
from shared.events.plans import SessionPlan
from shared.events.values import BlobRef, Layout, PoissonSampled, Reservation, TensorSpec
from shared.job.specification import JobSpecification
from shared.sessions.terms import SessionTerms, check_committee
from tests.sessions_at_work import requested, terms_of

ROUND = LocalRound(
    started=RoundStarted(
        client_id="a", job_id="j", round_id="j-r1", group_id="j-r1-g1", number=1,
        adapter=BlobRef(sha256="ab" * 32, size_bytes=1), layout_sha256="cd" * 32,
        reservation=Reservation(
            reservation_id="s", client_id="a", epsilon_after=1, epsilon_limit=8, delta=1e-5,
            mechanism=PoissonSampled(sampling_rate=0.1, noise_multiplier=1, steps=1),
        ),
        terms=BlobRef(sha256="ef" * 32, size_bytes=1), deadline=datetime(2026, 1, 1, tzinfo=UTC),
    )
)  # fmt: skip


@pytest.mark.parametrize("first", ["submitted", "declined", "closed"])
@pytest.mark.parametrize("second", ["submitted", "declined", "closed"])
def test_a_round_ends_once(first, second):
    with pytest.raises(Stale):
        state.ended(state.ended(ROUND, first), second)


REQUEST = requested(("a", "b"), "oneshot", 3)
TERMS = terms_of(REQUEST)
OWN_KEY = TERMS.members["a"].verify_key


def test_the_services_first_keys_are_trusted_and_others_refused():
    pinned = state.pinned_keys(Pinned(), TERMS)
    assert state.pinned_keys(pinned, TERMS.model_copy(update={"public_seed": b"s" * 32})) == pinned
    for change in ({"aggregation_keys": (b"x" * 1216,)}, {"server_key": b"x" * 32}):
        with pytest.raises(Refused, match="keys have changed"):
            state.pinned_keys(pinned, TERMS.model_copy(update=change))


def job_of(layout):
    return LocalJob(
        job_id="job", specification=SPECIFICATION, noise_multiplier=1.0, phase="ready", layout=layout
    )


SPECIFICATION = JobSpecification.model_validate(
    {"name": "job", "model": {"base": "m", "task": "causal-lm"}, "data": {"text": "t"}}
)
LAYOUT = Layout(tensors=(TensorSpec(name="w", shape=(3,), trainable=True),))
AGREED = TERMS.model_copy(
    update={"plan": SessionPlan.of(SPECIFICATION, 1.0), "layout_sha256": LAYOUT.sha256, "dimension": 3}
)
STARTED = ROUND.started.model_copy(
    update={"job_id": "job", "round_id": "job-r1", "group_id": "job-r1-g1", "layout_sha256": LAYOUT.sha256}
)


def test_the_sessions_terms_are_those_that_the_job_announced():
    state.check_terms(AGREED, STARTED, job_of(LAYOUT), OWN_KEY)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"round_id": "job-r2"}, "terms"),
        ({"group_id": "job-r1-g2"}, "terms"),
        ({"plan": AGREED.plan.model_copy(update={"fewest": 1})}, "terms.plan"),
        ({"plan": AGREED.plan.model_copy(update={"protocol": "none"})}, "terms.plan"),
        ({"layout_sha256": "ab" * 32}, "terms.layout_sha256"),
        ({"dimension": 4}, "terms.dimension"),
        ({"members": {"b": TERMS.members["b"]}}, "terms.members"),
        ({"members": {"a": TERMS.members["b"]}}, "terms.members"),
    ],
)
def test_other_terms_than_the_job_announced_are_refused(change, field):
    with pytest.raises(Refused) as refused:
        state.check_terms(AGREED.model_copy(update=change), STARTED, job_of(LAYOUT), OWN_KEY)
    assert refused.value.field == field


def test_each_term_changes_the_digest_that_stands_for_them_all():
    changes = [
        {"job_id": "other"},
        {"round_id": "job-r2"},
        {"group_id": "job-r1-g2"},
        {"plan": TERMS.plan.model_copy(update={"stage_s": 9.0})},
        {"members": {"a": TERMS.members["a"]}},
        {"dimension": 4},
        {"layout_sha256": "ab" * 32},
        {"aggregation_keys": (b"x",)},
        {"server_key": b"x" * 32},
        {"public_seed": b"x" * 32},
        {"committee": TERMS.committee[:1]},
    ]
    digests = {TERMS.digest, *(SessionTerms(**{**vars(TERMS), **change}).digest for change in changes)}
    assert len(digests) == len(changes) + 1


def test_terms_survive_their_bytes_and_others_are_rejected():
    assert SessionTerms.from_bytes(TERMS.to_bytes()) == TERMS
    assert SessionTerms.from_bytes(TERMS.to_bytes()).digest == TERMS.digest
    for content in (b"", b"junk", TERMS.to_bytes()[:-1]):
        with pytest.raises(Rejected):
            SessionTerms.from_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        {"holder_id": "eve"},
        {"verify_key": TERMS.members["b"].verify_key},
        {"sealing_key": TERMS.members["b"].sealing_key},
        {"sealing_signature": b"s" * 64},
    ],
)
def test_a_committee_with_a_key_that_its_holder_did_not_sign_is_rejected(change):
    first, second = TERMS.committee
    forged = TERMS.model_copy(update={"committee": (first.model_copy(update=change), second)})
    with pytest.raises(Rejected):
        check_committee(forged)
    check_committee(TERMS)


def test_bits_with_less_noise_than_the_whole_step_are_no_mechanism():
    with pytest.raises(ValidationError, match="leave none for the sum"):
        PoissonSampled(sampling_rate=0.1, noise_multiplier=1.0, bits_noise_multiplier=0.9, steps=1)
    kept = PoissonSampled(sampling_rate=0.1, noise_multiplier=1.0, bits_noise_multiplier=10.0, steps=1)
    assert PoissonSampled.of(kept.core()) == kept
