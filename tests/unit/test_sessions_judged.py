"""Updates in the clear that a rule judges one by one, as part of their session."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.secure_aggregation.protocols.base import TRUSTED, UPLOAD, Failed, Summed
from services.secure_aggregation.protocols.none import Opened
from services.secure_aggregation.state import Session
from shared.core.robust.gram import RULES
from shared.core.secagg import fixed_point
from shared.errors import Rejected
from shared.events import ClientDeclined, GroupFailed, GroupSummed
from shared.events.plans import RulePlan
from tests.sessions_at_work import DEADLINE, SERVER, Summing, requested, terms_of, upload

SEED, COUNT, DIMENSION = 20261129, 9, 12
NAMES = tuple(f"c{index}" for index in range(COUNT))


def drawn():
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    rows = rng.normal(size=DIMENSION) + 0.3 * rng.normal(size=(COUNT, DIMENSION))
    rows[COUNT - 2 :] *= -5
    encoded = [fixed_point.encode(row.astype(np.float32)) for row in rows]
    return fixed_point.decode(np.array(encoded)), [fixed_point.to_bytes(row) for row in encoded]


ROWS, CONTENTS = drawn()
SESSION = Session(
    job_id="job", round_id="job-r1", group_id="job-r1-g1", protocol="none", deadline=DEADLINE,
    terms={"sha256": "ab" * 32, "size_bytes": 1}, stage=UPLOAD,
)  # fmt: skip


def plan(name="multi-krum", malicious=2, **changes):
    return {"rule": RulePlan(name=name, malicious=malicious, single=True, bound=8.0, **changes)}


def running(round_id="job-r1", **changes):
    return Opened(terms_of(requested(NAMES, "none", DIMENSION, round_id, **plan(**changes))), SERVER)


def outcome(opened, order=range(COUNT), session=SESSION):
    for index in order:
        opened.take_upload(session, NAMES[index], CONTENTS[index])
    return opened.step(session, (), waited=True).outcome


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(COUNT)), rule=st.sampled_from(["krum", "multi-krum", "geometric-median"]))
def test_any_order_of_arrival_gives_the_rules_result(order, rule):
    summed = outcome(running(name=rule), order)
    weights = RULES[rule](ROWS @ ROWS.T, 2).weights
    assert isinstance(summed, Summed)
    assert summed.members == NAMES
    assert [summed.judgement.weights[name] for name in NAMES] == pytest.approx(weights, abs=1e-6)
    assert summed.total == pytest.approx(weights @ ROWS, abs=1e-5)


def test_a_service_that_was_killed_draws_the_same_buckets_again_and_another_round_draws_others():
    def kept(round_id):
        summed = outcome(running(round_id, name="krum", malicious=0, mixing="buckets"))
        return tuple(name for name in NAMES if summed.judgement.weights[name])

    rounds = {f"job-r{number}": kept(f"job-r{number}") for number in range(1, 13)}
    assert rounds == {round_id: kept(round_id) for round_id in rounds}
    assert len(set(rounds.values())) > 1


def test_more_malicious_clients_than_the_rule_bears_of_those_that_came_fail_the_session():
    failed = outcome(running(), range(3, COUNT))
    assert failed == Failed("aggregation.robust: multi_krum bears 1 hostile of 6, not 2 (give 0 to 1)")


def test_who_sent_what_cannot_be_taken_was_one_of_the_malicious():
    session = SESSION.replace(refused={"c0": "junk"}, declined={"c1": "busy", "c2": "busy"})
    summed = outcome(running(), range(3, COUNT), session)
    weights = RULES["multi-krum"](ROWS[3:] @ ROWS[3:].T, 1).weights
    assert [summed.judgement.weights[name] for name in NAMES[3:]] == pytest.approx(weights, abs=1e-6)
    more = SESSION.replace(refused=dict.fromkeys(NAMES[:4], "junk"))
    left = outcome(running(), range(4, COUNT), more).judgement.weights
    assert list(left.values()) == pytest.approx([0.2] * 5)  # nobody malicious is left


@pytest.mark.parametrize(
    ("value", "reason"), [(0.0, "zero in every coordinate"), (128.0, "beyond 127"), (-128.0, "beyond 127")]
)
def test_what_is_refused_changes_nothing(value, reason):
    opened, other = running(), running()
    content = np.full(DIMENSION, np.clip(value * fixed_point.SCALE, -(2**31), 2**31 - 1), "<i4").tobytes()
    with pytest.raises(Rejected, match=reason):
        opened.take_upload(SESSION, "c0", content)
    assert not opened.uploads
    assert (outcome(opened).total == outcome(other).total).all()


def test_the_trusted_client_is_left_out_with_what_it_is_and_its_absence_named():
    opened = running(name="fltrust", root="c0")
    summed = outcome(opened)
    assert summed.members == NAMES[1:]
    assert opened.faults == {"c0": TRUSTED}
    for session, why in ((SESSION, "no complete upload"), (SESSION.replace(declined={"c0": "busy"}), "busy")):
        failed = outcome(running(name="fltrust", root="c0"), range(1, COUNT), session)
        assert failed.reason.startswith(f"fltrust measures updates by that of c0: {why}")


@pytest.fixture
async def summing(tmp_path):
    opened = await Summing.open(f"sqlite+aiosqlite:///{tmp_path}/sums.db")
    yield opened
    await opened.units.close()


async def begin(summing, **changes):
    return await summing.begin(requested(NAMES, "none", DIMENSION, **plan(**changes)))


async def send(summing, terms, index, content=None):
    for message in upload(terms, NAMES[index], content or CONTENTS[index]):
        await summing.handle(message)


async def test_the_event_carries_the_update_the_weights_and_the_findings(summing):
    terms = await begin(summing)
    await summing.handle(ClientDeclined(
        client_id="c0", job_id="job", round_id="job-r1", group_id="job-r1-g1", reason="busy"
    ))  # fmt: skip
    for index in range(1, COUNT):
        await send(summing, terms, index)
    (summed,) = summing.of(GroupSummed)
    weights = RULES["multi-krum"](ROWS[1:] @ ROWS[1:].T, 2).weights
    assert summed.judged
    assert summed.rule == terms.plan.rule
    assert [summed.weights[name] for name in NAMES[1:]] == pytest.approx(weights, abs=1e-6)
    update = np.frombuffer(await summing.context.blobs.get(summed.total), "<f8")
    assert update == pytest.approx(weights @ ROWS[1:], abs=1e-5)
    assert [finding.subject for finding in summed.findings] == ["c7", "c8"]
    assert {item.client_id: item.sent_wrong for item in summed.left_out} == dict.fromkeys(
        ("c0", "c7", "c8"), False
    )


async def test_a_rule_that_bears_too_few_fails_the_group_and_closes_the_session(summing):
    terms = await begin(summing, malicious=4)
    for index in range(COUNT):
        await send(summing, terms, index)
    (failed,) = summing.of(GroupFailed)
    assert "multi_krum bears 3 hostile of 9, not 4" in failed.reason
    assert not failed.faulty
    assert not (await summing.session()).open


async def test_after_a_lost_commit_the_same_result_is_said_again(summing):
    terms = await begin(summing)
    for index in range(COUNT - 1):
        await send(summing, terms, index)
    before = summing.gathered().running
    session = await summing.session()
    before.take_upload(session, NAMES[-1], CONTENTS[-1])
    first, again = (before.step(session, (), waited=False).outcome for _ in range(2))
    assert (first.total == again.total).all()
    assert first.judgement == again.judgement
