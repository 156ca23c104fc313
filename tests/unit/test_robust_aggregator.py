"""The robust aggregator's handlers on a database: groups are judged once, whatever fails or comes twice."""

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.robust_aggregator import judging
from services.robust_aggregator.handlers import HANDLERS, Aggregator
from services.robust_aggregator.judging import Judging, hostile_rows
from services.robust_aggregator.state import GroupSum
from shared.adapters.blobs import open_blobs
from shared.adapters.database import open_units
from shared.adapters.no_telemetry import NoTelemetry
from shared.core.robust.gram import RULES
from shared.errors import Stale
from shared.events import GroupFailed, GroupSummed, RoundAborted, UpdateAggregated
from shared.events.base import Envelope
from shared.events.judgements import Finding, LeftOut
from shared.events.plans import RulePlan
from tests.sessions_at_work import START, OsRandom, SetClock

SEED = 20261128
KRUM = RulePlan(name="multi-krum", malicious=1)
ROWS = np.random.default_rng(SEED).normal(size=6) + 0.3 * np.random.default_rng(SEED + 1).normal(size=(5, 6))
ROWS[4] *= -3


class Lost(Exception):
    """The commit's connection."""


class Robust:
    """The handlers, each event in a transaction of its own. `published` holds what they said."""

    def __init__(self, units):
        self.units, self.blobs, self.published = units, open_blobs("memory://"), []
        self.restart()

    def restart(self):
        self.context = Aggregator(self.blobs, NoTelemetry(), Judging(self.blobs, OsRandom()))

    async def handle(self, event, *, lost=False):
        async with self.units.begin(Envelope.wrap(event)) as unit:
            await HANDLERS[type(event)](event, unit, self.context)
            if lost:
                raise Lost
            self.published += [one.open() for one in unit.outgoing]

    async def summed(self, index, *, rule=KRUM, groups=5, round_id="r1", rows=ROWS, **fields):
        """The sum of two clients, whose mean is a row."""
        return GroupSummed(
            job_id="job", round_id=round_id, group_id=f"{round_id}-g{index}", groups=groups, rule=rule,
            total=await self.blobs.put((2 * rows[index]).tobytes()), left_out=(),
            **{"weights": {f"a{index}": 1.5, f"b{index}": 0.5}, **fields},
        )  # fmt: skip

    async def update(self):
        [event] = self.published
        assert isinstance(event, UpdateAggregated)
        return np.frombuffer(await self.blobs.get(event.update), "<f4"), event

    @property
    def kept(self):
        return [name for rows in self.context.judging.rounds.values() for name in rows.rows.names]


def failed(index, groups=5):
    return GroupFailed(
        job_id="job", round_id="r1", group_id=f"r1-g{index}", groups=groups, reason="too few",
        left_out=(LeftOut(client_id=f"a{index}", reason="silent"),),
    )  # fmt: skip


ABORTED = RoundAborted(
    job_id="job", round_id="r1", number=1, reason="over", started_at=START, aborted_at=START, root=""
)


@pytest.fixture
async def robust(tmp_path):
    print("seed", SEED)
    units = await open_units(
        f"sqlite+aiosqlite:///{tmp_path}/robust.db", "robust_aggregator", SetClock(), lambda: "robust"
    )
    yield Robust(units)
    await units.close()


async def check(robust, rows=ROWS, hostile=1):
    weights = RULES["multi-krum"](rows @ rows.T, hostile).weights
    update, event = await robust.update()
    assert update == pytest.approx(weights @ rows, abs=1e-6)
    shares = {f"a{i}": 0.75 * weight for i, weight in enumerate(weights)}
    shares |= {f"b{i}": 0.25 * weight for i, weight in enumerate(weights)}
    assert event.weights == pytest.approx(shares)
    return event


async def test_a_round_leaves_one_line_that_says_who_was_left_out_by_what_figure(robust):
    with capture_logs() as lines:
        for index in range(5):
            await robust.handle(await robust.summed(index))
    (line,) = lines
    (finding,) = (await check(robust)).findings
    assert line == {
        "event": "aggregated", "log_level": "info", "round_id": "r1", "rule": "multi-krum", "rows": 5,
        "left_out": {"r1-g4": finding.sentence},
    }  # fmt: skip


async def test_rows_are_taken_as_groups_report_and_dropped_with_the_result(robust):
    for index in range(5):
        assert robust.kept == [f"r1-g{before}" for before in range(index)]
        await robust.handle(await robust.summed(index))
    event = await check(robust)
    assert not robust.kept
    (finding,) = event.findings
    assert (finding.subject, finding.figure, finding.weight) == ("r1-g4", "distance", 0)
    reason = f"its group r1-g4 was left out by multi-krum: {finding.sentence}"
    assert event.left_out == tuple(LeftOut(client_id=name, reason=reason) for name in ("a4", "b4"))


@pytest.mark.parametrize("at", range(5))
async def test_a_group_whose_commit_was_lost_counts_once(robust, at):
    for index in range(5):
        event = await robust.summed(index)
        if index == at:
            with pytest.raises(Lost):
                await robust.handle(event, lost=True)
        await robust.handle(event)
    await check(robust)


@pytest.mark.parametrize("at", range(1, 5))
async def test_after_a_restart_the_groups_before_are_read_again(robust, at):
    for index in range(5):
        if index == at:
            robust.restart()
        await robust.handle(await robust.summed(index))
    await check(robust)


async def test_more_rounds_at_once_than_are_kept_in_memory_are_all_judged(robust, monkeypatch):
    monkeypatch.setattr(judging, "MOST_ROUNDS", 2)
    for index in range(5):
        for number in range(4):
            await robust.handle(await robust.summed(index, round_id=f"r{number}"))
            assert len(robust.context.judging.rounds) <= 2
    assert len(robust.published) == 4
    assert len({event.update.sha256 for event in robust.published}) == 1


async def test_a_round_that_was_aborted_is_forgotten_and_takes_nothing_more(robust):
    await robust.handle(await robust.summed(0))
    await robust.handle(ABORTED)
    assert not robust.kept
    with pytest.raises(Stale):
        await robust.handle(await robust.summed(1))
    assert not robust.published


async def test_a_failed_group_that_reports_last_completes_the_round(robust):
    rows = np.vstack([ROWS, ROWS[:1] * 1.1])
    for index in range(1, 6):
        await robust.handle(await robust.summed(index, groups=6, rows=rows))
    await robust.handle(failed(0, groups=6))
    update, event = await robust.update()
    weights = RULES["multi-krum"](rows[1:] @ rows[1:].T, 1).weights
    assert update == pytest.approx(weights @ rows[1:], abs=1e-6)
    assert event.left_out[0] == LeftOut(client_id="a0", reason="silent")


async def test_too_few_groups_for_the_rule_leave_none_that_counts(robust):
    await robust.handle(failed(0))
    for index in range(1, 5):
        await robust.handle(await robust.summed(index))
    assert [type(event) for event in robust.published] == [GroupFailed] * 4
    assert {event.group_id for event in robust.published} == {f"r1-g{index}" for index in range(1, 5)}
    assert {event.reason for event in robust.published} == {
        "aggregation.robust: multi_krum bears 0 hostile of 4, not 1 (give 0 to 0)"
    }
    for event in robust.published:  # its own words come back to it
        with pytest.raises(Stale):
            await robust.handle(event)


async def test_a_round_without_any_sum_has_no_update(robust):
    for index in range(5):
        await robust.handle(failed(index))
    assert not robust.published


async def test_updates_that_a_session_judged_pass_through_with_what_it_found(robust):
    finding = Finding(subject="b", figure="norm", value=2.0, limit=1.0, weight=0.0)
    left = (LeftOut(client_id="b", reason="left out by multi-krum"),)
    single = KRUM.model_copy(update={"single": True})
    event = await robust.summed(
        0, rule=single, groups=1, weights={"a": 1.0, "b": 0.0}, judged=True, findings=(finding,)
    )
    await robust.handle(event.model_copy(update={"left_out": left}))
    update, event = await robust.update()
    assert update == pytest.approx(2 * ROWS[0])
    assert (event.weights, event.findings, event.left_out) == ({"a": 1.0, "b": 0.0}, (finding,), left)
    assert event.update_norm == pytest.approx(np.linalg.norm(2 * ROWS[0]), rel=1e-6)


async def test_a_sum_whose_updates_were_to_be_judged_and_were_not_is_no_update(robust):
    await robust.handle(await robust.summed(0, rule=KRUM.model_copy(update={"single": True}), groups=1))
    (event,) = robust.published
    assert isinstance(event, GroupFailed)
    assert "were not" in event.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
async def test_an_update_that_is_not_finite_is_not_published(robust, value):
    rows = np.full((1, 6), value)
    await robust.handle(await robust.summed(0, rule=RulePlan(), groups=1, rows=rows))
    assert [type(event) for event in robust.published] == [GroupFailed]


def groups_of(count, size, rule, lost=0):
    return [
        GroupSum(
            job_id="job", round_id="r1", group_id=f"g{group}", rule=rule,
            total=None if group < lost else {"sha256": "ab" * 32, "size_bytes": 8},
            weights={} if group < lost else {f"c{group}-{index}": 1.0 for index in range(size)},
            left_out=tuple(LeftOut(client_id=f"c{group}-{index}", reason="lost") for index in range(size))
            if group < lost else (),
        )
        for group in range(count)
    ]  # fmt: skip


def test_each_malicious_client_may_spoil_another_group():
    rule = RulePlan(name="geometric-median", malicious=4)
    assert hostile_rows(groups_of(9, 2, rule)) == 4
    assert hostile_rows(groups_of(9, 2, rule, lost=3)) == 4  # more than 6 rows bear: the rule refuses
    assert hostile_rows(groups_of(5, 2, rule)) == 4
