"""The score of clients that keep being left out: what chance gives, what a habit gives, and what follows."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from services.coordinator.cohort.standing import (
    FEWEST_ROUNDS,
    Room,
    Standing,
    findings_of,
    judged_again,
    suspended_by_score,
)
from services.coordinator.context import Coordination
from services.coordinator.rounds import on_round_completed
from services.coordinator.settings import CoordinatorSettings
from shared.events import RoundCompleted, UpdateAggregated
from shared.events.judgements import LeftOut
from shared.events.values import BlobRef

SEED = 20261124
NOW = datetime(2030, 1, 1, tzinfo=UTC)
WHY = "left out by multi-krum: its distance of 3 is above 1"


def rounds(cohorts):
    """Standings after rounds, each a pair: who was judged, and who of them was left out."""
    standings = {}
    for judged, out in cohorts:
        findings = {str(client): WHY if client in out else None for client in judged}
        standings |= judged_again("job", standings, findings)
    return standings


def room(candidates, fewest, suspended=0, malicious=9):
    return Room(frozenset(candidates), fewest, suspended, malicious)


def habitual(client, score, judged=FEWEST_ROUNDS):
    return Standing(
        job_id="job", client_id=client, excess=score * 2.0, variance=4.0, judged=judged, left_out=judged
    )


@pytest.mark.parametrize("left_out", [1, 3, 9, 20, 29])
def test_the_score_of_exchangeable_clients_is_standard_however_many_a_rule_leaves_out(left_out):
    print(f"seed {SEED}")
    generator = np.random.default_rng(SEED)
    clients, scores = [f"c{index}" for index in range(30)], []
    for _ in range(40):
        drawn = [(clients, generator.choice(clients, left_out, replace=False)) for _ in range(25)]
        scores += [one.score for one in rounds(drawn).values()]
    # 1,200 scores with mean 0 exactly (those of a round add up to 0) and variance 1.
    assert np.mean(scores) == pytest.approx(0, abs=1e-9)
    assert np.var(scores) == pytest.approx(1, abs=0.15)


def highest(clients, left_out, count, jobs):
    """(jobs, clients): of exchangeable clients, the highest score from the third round on."""
    generator, share = np.random.default_rng(SEED), left_out / clients
    out = np.argsort(generator.random((count, jobs, clients)), axis=2) < left_out
    after = np.arange(1, count + 1)[:, None, None]
    scores = (np.cumsum(out, axis=0) - after * share) / np.sqrt(after * share * (1 - share))
    one = rounds([(range(clients), np.flatnonzero(each).tolist()) for each in out[:, 0]])
    assert [one[str(client)].score for client in range(clients)] == pytest.approx(scores[-1, 0].tolist())
    return scores[FEWEST_ROUNDS - 1 :].max(axis=0)


# Of clients that did nothing wrong, per cent that ever reach 3, 4, 5 in 100 rounds.
@pytest.mark.parametrize(
    ("clients", "left_out", "expected"),
    [(10, 2, (3.7, 0.3, 0.0)), (30, 6, (3.7, 0.3, 0.0)), (30, 9, (2.8, 0.1, 0.0)), (30, 1, (6.6, 2.5, 1.0))],
)
def test_how_often_chance_reaches_a_score_in_a_hundred_rounds(clients, left_out, expected):
    print(f"seed {SEED}")
    reached = highest(clients, left_out, 100, 15_000 // clients)
    found = [100 * np.mean(reached >= limit) for limit in (3, 4, 5)]
    assert found == pytest.approx(expected, abs=0.6)


def test_groups_that_are_drawn_anew_leave_exchangeable_clients_around_0_and_tell_the_one_that_spoils_its_own():
    print(f"seed {SEED}")
    generator = np.random.default_rng(SEED)
    clients = [f"c{index}" for index in range(40)]
    drawn = []
    for _ in range(30):
        groups = np.array_split(generator.permutation(clients), 10)
        out = next(group for group in groups if "c0" in group)
        drawn.append((clients, set(out.tolist())))
    standings = rounds(drawn)
    honest = [one.score for client, one in standings.items() if client != "c0"]
    assert standings["c0"].score == pytest.approx(math.sqrt(30) * 3)  # p = 0.1
    assert max(honest) < standings["c0"].score / 2
    assert abs(np.mean(honest)) < 1


def test_who_is_always_left_out_grows_like_the_root_of_the_rounds():
    clients = [f"c{index}" for index in range(10)]
    after = {count: rounds([(clients, {"c0", "c1"})] * count)["c0"] for count in (1, 4, 25)}
    assert {count: one.score for count, one in after.items()} == pytest.approx({1: 2, 4: 4, 25: 10})
    assert (after[25].judged, after[25].left_out, after[25].finding) == (25, 25, WHY)


@pytest.mark.parametrize("out", [set(), {"a", "b", "c"}])
def test_a_round_that_leaves_out_nobody_or_everybody_says_nothing(out):
    before = rounds([("abc", {"a"})])
    assert judged_again("job", before, {client: WHY if client in out else None for client in "abc"}) == {}
    assert judged_again("job", before, {}) == {}


def test_only_those_judged_in_a_round_are_scored_by_it():
    standings = rounds([("abc", {"a"}), ("bcd", {"d"})])
    assert {client: one.judged for client, one in standings.items()} == {"a": 1, "b": 2, "c": 2, "d": 1}


def aggregated(weights, *left_out):
    return UpdateAggregated(
        job_id="job", round_id="job-r1", update=BlobRef(sha256="ab" * 32, size_bytes=8), weights=weights,
        left_out=left_out, update_norm=1.0,
    )  # fmt: skip


def test_what_counts_is_no_weight_or_a_wrong_upload_not_silence_and_not_the_root_client():
    event = aggregated(
        {"a": 0.5, "b": 0.5, "c": 0.0},
        LeftOut(client_id="c", reason=WHY),
        LeftOut(client_id="d", reason="its update has NaN", sent_wrong=True),
        LeftOut(client_id="e", reason="no complete upload by the deadline"),
        LeftOut(client_id="root", reason="the others are measured by its update"),
    )
    expected = {"a": None, "b": None, "c": WHY, "d": "its update has NaN"}
    assert findings_of(event, "root") == expected
    wrong_root = aggregated({"a": 1.0}, LeftOut(client_id="root", reason="NaN", sent_wrong=True))
    assert findings_of(wrong_root, "root") == {"a": None}


def test_a_score_at_the_limit_suspends_after_rounds_enough():
    standings = {
        "a": habitual("a", 4.0),
        "b": habitual("b", 3.99),
        "c": habitual("c", 9.0, judged=FEWEST_ROUNDS - 1),
    }
    changed = suspended_by_score(standings, 4.0, room("abcdef", 2), NOW)
    assert changed.keys() == {"a"}
    assert "left out in 3 of 3 rounds, score 4.00 of 4" in changed["a"].suspended
    assert [(one.to, one.by, one.score, one.at) for one in changed["a"].changes] == [
        ("suspended", "", 4.0, NOW)
    ]
    assert suspended_by_score(changed, 4.0, room("bcdef", 2), NOW) == {}


def test_the_highest_are_suspended_as_far_as_enough_candidates_remain_and_the_rest_say_why_not():
    standings = {client: habitual(client, score) for client, score in {"a": 5, "b": 7, "c": 6}.items()}
    changed = suspended_by_score(standings, 4.0, room("abcde", 3), NOW)
    assert [client for client, one in changed.items() if one.suspended] == ["b", "c"]
    assert not changed["a"].suspended
    assert "3 clients are left and 3 are needed" in changed["a"].spared
    again = judged_again("job", changed, {"a": WHY, "d": None})
    assert suspended_by_score(again, 4.0, room("adef", 3), NOW)["a"].suspended


@pytest.mark.parametrize(("already", "suspended"), [(0, ["b", "c"]), (1, ["b"]), (2, []), (3, [])])
def test_no_more_are_suspended_than_may_be_malicious(already, suspended):
    standings = {client: habitual(client, score) for client, score in {"a": 5, "b": 7, "c": 6}.items()}
    changed = suspended_by_score(standings, 4.0, room("abcdefgh", 2, already, malicious=2), NOW)
    assert [client for client, one in changed.items() if one.suspended] == suspended
    assert f"{max(already, 2)} are suspended and at most 2 may be malicious" in changed["a"].spared


def test_reinstatement_begins_anew_and_keeps_the_record():
    before = habitual("a", 5.0).suspend("often", "", NOW)
    after = before.reinstate("a broken disk", "ann", NOW)
    assert (after.score, after.judged, after.left_out, after.suspended) == (0, 0, 0, "")
    assert [(one.to, one.by, one.reason) for one in after.changes] == [
        ("suspended", "", "often"),
        ("reinstated", "ann", "a broken disk"),
    ]
    assert after.revision == before.revision + 1
    assert not after.due(0.1)


async def test_the_rounds_root_span_says_which_rule_left_out_whom():
    class Exported:
        def export_root(self, traceparent, name, start, end, attributes):
            self.attributes = attributes

    exported = Exported()
    completed = RoundCompleted(
        job_id="job", round_id="job-r1", number=1, adapter=BlobRef(sha256="ab" * 32, size_bytes=8),
        contributors=("a",), rule="krum", weights={"a": 1.0, "c": 0.0, "b": 0.0},
        left_out=(LeftOut(client_id="d", reason="NaN", sent_wrong=True), LeftOut(client_id="e", reason="late")),
        update_norm=1.0, started_at=NOW, completed_at=NOW, root="",
    )  # fmt: skip
    await on_round_completed(completed, None, Coordination(None, None, None, exported, CoordinatorSettings()))
    said = {key: exported.attributes[key] for key in ("rule", "judged", "left_out_count", "left_out")}
    assert said == {"rule": "krum", "judged": 3, "left_out_count": 3, "left_out": ["b", "c", "d"]}
