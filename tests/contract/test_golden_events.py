"""The bytes of every event, kept: an older reader and a newer writer must agree on them.

A new event, or a new field with a default: `GOLDEN=write python -m pytest tests/contract/test_golden_events.py`.
Bytes that change otherwise mean that the event needs a new version.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

import shared.events as events
from shared.events import judgements, plans, values
from shared.events.base import DeadlinePassed, decode, encode, event_types, pack, unpack
from shared.job.specification import JobSpecification

FOLDER = Path(__file__).parent / "golden"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGEST = "ab" * 32
BLOB = values.BlobRef(sha256=DIGEST, size_bytes=7)
LEFT = (judgements.LeftOut(client_id="bob", reason="late"),)
MECHANISM = values.PoissonSampled(sampling_rate=0.1, noise_multiplier=1.5, steps=3)
LAYOUT = values.Layout(tensors=(values.TensorSpec(name="w.lora_B.weight", shape=(4, 2), trainable=True),))
RESERVATION = values.Reservation(
    reservation_id="r-1",
    client_id="alice",
    mechanism=MECHANISM,
    epsilon_after=1.25,
    epsilon_limit=8.0,
    delta=1e-5,
)
JOB = JobSpecification.model_validate(
    {"name": "j", "model": {"base": "minilm", "task": "causal-lm"}, "data": {"text": "text"}}
)
IN_JOB = {"job_id": "job-1"}
IN_ROUND = {**IN_JOB, "round_id": "job-1-r1"}
IN_GROUP = {**IN_ROUND, "group_id": "job-1-r1-g1"}
MEMBER = values.Member(verify_key=b"k" * 32, sealing_key=b"s" * 9, sealing_signature=b"t" * 64, weight=0.5)
PLAN = plans.SessionPlan(protocol="oneshot", bits=16, bound=0.5, rotate=False, committee=("kay",))
ALICE = {"client_id": "alice"}
ENDED = {**IN_ROUND, "number": 1, "started_at": AT, "root": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
STANDING = judgements.Standing(
    score=4.5, judged=5, left_out=5, finding="its norm is large", suspended="often", revision=6
)
SPENT = {"epsilon": 1.25, "epsilon_limit": 8.0}

EXAMPLES = (
    DeadlinePassed(name="round", subject=("job-1", "1")),
    events.JobSubmitted(**IN_JOB, specification=JOB, submitted_by="op"),
    events.JobCancelled(**IN_JOB, reason="stop"),
    events.LimitRaised(limit="client-epsilon", **ALICE, value=12.0, reason="agreed with her", raised_by="op"),
    events.SuspensionRequested(**ALICE, **IN_JOB, reason="a stolen key", requested_by="op"),
    events.ReinstatementRequested(**ALICE, **IN_JOB, reason="a new key", requested_by="op"),
    events.JobAccepted(**IN_JOB, specification=JOB, noise_multiplier=1.5, accepted_at=AT),
    events.JobRefused(**IN_JOB, field="privacy.epsilon", reason="too large", remedy="set 10"),
    events.JobAnnounced(**ALICE, **IN_JOB, specification=JOB, noise_multiplier=1.5),
    events.JobWaiting(**IN_JOB, number=2, reason="3 clients are present, 4 are needed", since=AT),
    events.ClientSuspended(**ALICE, **IN_JOB, reason="often left out", standing=STANDING, at=AT),
    events.ClientReinstated(
        **ALICE, **IN_JOB, reason="a new key", reinstated_by="op", before=STANDING, standing=judgements.Standing(), at=AT
    ),
    events.BudgetRequested(
        **IN_ROUND, clients=("alice",), mechanism=MECHANISM, planned_rounds=3, epsilon=8.0, delta=1e-5, expires_at=AT,
        records={"alice": 9},
    ),
    events.SessionRequested(
        **IN_GROUP, members={"alice": MEMBER}, plan=PLAN, layout_sha256=DIGEST, dimension=8, groups=2, deadline=AT
    ),
    events.RoundOpened(**IN_ROUND, number=1, cohort=("alice",), left_out=LEFT, deadline=AT),
    events.RoundStarted(
        **ALICE, **IN_GROUP, number=1, adapter=BLOB, layout_sha256=DIGEST, reservation=RESERVATION,
        terms=BLOB, deadline=AT,
    ),
    events.RoundClosed(**ALICE, **IN_ROUND, outcome="aborted", reason="late"),
    events.RoundCompleted(
        **ENDED, adapter=BLOB, contributors=("alice",), left_out=LEFT, update_norm=0.5, completed_at=AT
    ),
    events.RoundAborted(**ENDED, reason="too few", aborted_at=AT),
    events.JobEnded(
        **IN_JOB, outcome="completed", reason="done", rounds_completed=3, adapter=BLOB, layout=LAYOUT, ended_at=AT
    ),
    events.JobClosed(**ALICE, **IN_JOB, outcome="completed", reason="done"),
    events.BudgetReserved(**IN_ROUND, reservations=(RESERVATION,), refused=LEFT),
    events.BudgetRefused(**IN_ROUND, refused=LEFT),
    events.BudgetRunningLow(**IN_JOB, **ALICE, **SPENT),
    events.LedgerExtended(
        **IN_ROUND, **ALICE, **SPENT, outcome="committed", epsilon_rdp=1.5, delta=1e-5, sequence=4,
        entry_sha256=DIGEST, recorded_at=AT,
    ),
    events.SessionOpened(**IN_GROUP, terms=BLOB),
    events.StageBegun(**ALICE, **IN_GROUP, terms=BLOB, stage="release", payload=b"p"),
    events.StageAnswered(**ALICE, **IN_GROUP, stage="answer", payload=b"p", signature=b"s" * 64),
    events.HolderSeen(**ALICE, verify_key=b"k" * 32, sealing_key=b"s" * 9, sealing_signature=b"t" * 64),
    events.GroupSummed(**IN_GROUP, total=BLOB, groups=2, weights={"alice": 0.5}, named={"bob": "lied"}, left_out=LEFT),
    events.GroupFailed(**IN_GROUP, reason="too few", left_out=LEFT, faulty=("bob",)),
    events.UpdateAggregated(**IN_ROUND, update=BLOB, weights={"alice": 1.0}, left_out=LEFT, update_norm=0.5),
    events.ClientJoined(**ALICE, verify_key=b"k" * 32, version="1"),
    events.ClientSeen(**ALICE, activity="waiting"),
    events.ClientReady(**ALICE, **IN_JOB, layout=LAYOUT, records=9),
    events.ClientDeclined(**ALICE, **IN_GROUP, reason="policy"),
    events.UpdateSubmitted(
        **ALICE, **IN_GROUP, index=0, count=1, upload_sha256=DIGEST, payload=b"sealed", signature=b"s" * 64
    ),
    events.ShareSubmitted(
        **ALICE, **IN_GROUP, index=0, count=1, upload_sha256=DIGEST, payload=b"sealed", signature=b"s" * 64, party=2
    ),
    events.BudgetSpent(**ALICE, **IN_ROUND, reservation_id="r-1", steps=3),
)  # fmt: skip
BY_TYPE = {example.type_name: example for example in EXAMPLES}


def test_every_event_has_an_example():
    ours = {name for name, kind in event_types().items() if kind.__module__.startswith("shared.")}
    assert set(BY_TYPE) == ours


@pytest.mark.parametrize("name", sorted(BY_TYPE))
def test_the_bytes_of_an_event_are_those_that_were_kept(name):
    file = FOLDER / f"{name}.bin"
    if os.environ.get("GOLDEN") == "write":
        file.write_bytes(encode(BY_TYPE[name]))
    assert encode(BY_TYPE[name]) == file.read_bytes()
    assert decode(name, file.read_bytes()) == BY_TYPE[name]


@pytest.mark.parametrize("name", sorted(BY_TYPE))
def test_a_reader_ignores_a_field_that_a_newer_writer_added(name):
    body = {**unpack(encode(BY_TYPE[name])), "added_later": 1}
    assert decode(name, pack(body)) == BY_TYPE[name]
