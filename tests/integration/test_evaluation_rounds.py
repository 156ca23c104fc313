"""Evaluation rounds at the coordinator, with clients that send sums that are known."""

import numpy as np
import pytest

from services.coordinator.evaluating import metrics_of, no_better
from shared.events import JobEnded, RoundAborted, RoundCompleted
from shared.job.evaluation import noise_on_sums, scale
from tests.integration.scripted_federation import federation, mean_of, specification, update_of

CLIENTS = ("alice", "bob", "carol")
EVERY_TWO = {"every": 2, "records": 100, "noise_multiplier": 4.0}


def job(**changes):
    evaluation = {**EVERY_TWO, **changes.pop("evaluation", {})}
    rounds = {"count": 3, "min_clients": 2, "deadline_s": 20, "gather_s": 5, **changes.pop("rounds", {})}
    body = specification(rounds=rounds, **changes).model_dump(mode="json")
    return type(specification()).model_validate({**body, "evaluation": evaluation})


def sending(evaluations, correct=40.0, count=80.0, losses=(300.0,) * 10):
    """A client's content of each round: known sums where that one evaluates."""
    specified = job()

    def sends(client_id, number, dimension):
        if number not in evaluations:
            return update_of(client_id, number, dimension)
        loss = losses[evaluations.index(number)]
        return (np.array([correct, count, loss / 10]) / scale(specified)).astype(np.float32)

    return {"every": {"sends": sends}}


async def test_every_second_round_and_the_last_are_evaluated_and_the_adapter_stays(tmp_path):
    async with federation(tmp_path, CLIENTS, **sending((3, 5))) as fed:
        await fed.submit(job())
        ended = (await fed.until(JobEnded))[0]
        rounds = sorted(await fed.until(RoundCompleted, 5), key=lambda event: event.number)
    assert ended.outcome == "completed"
    assert ended.rounds_completed == 3
    assert [one.kind for one in rounds] == ["train", "train", "evaluate", "train", "evaluate"]
    assert rounds[2].adapter == rounds[1].adapter
    assert rounds[4].adapter == rounds[3].adapter == ended.adapter
    found = rounds[2].metrics
    assert found["count"] == pytest.approx(240, abs=1e-3)
    assert found["accuracy"] == pytest.approx(0.5, abs=1e-5)
    assert found["loss"] == pytest.approx(300 / 80, abs=1e-4)
    assert found["perplexity"] == pytest.approx(np.exp(3.75), rel=1e-4)
    assert found["count_error"] == pytest.approx(4 * np.sqrt(3 * 3), rel=1e-3)
    assert not rounds[1].metrics


async def test_an_evaluation_without_enough_clients_is_skipped_and_training_goes_on(tmp_path):
    options = sending((3, 5))
    for name in CLIENTS[:2]:
        options[name] = {**options["every"], "declines": (3,)}
    async with federation(tmp_path, CLIENTS, **options) as fed:
        await fed.submit(job())
        ended = (await fed.until(JobEnded))[0]
        aborted = await fed.until(RoundAborted)
        rounds = sorted(fed.of(RoundCompleted), key=lambda event: event.number)
    assert (ended.outcome, ended.rounds_completed) == ("completed", 3)
    assert {one.number for one in aborted} == {3}
    assert [one.kind for one in rounds] == ["train", "train", "train", "evaluate"]
    assert rounds[2].update_norm == pytest.approx(np.linalg.norm(mean_of(CLIENTS, 4, 8)), rel=1e-5)


async def test_a_job_whose_loss_stays_as_it_is_ends_early_with_the_reason(tmp_path):
    evaluations = tuple(range(2, 40, 2))
    losses = (300.0, 200.0, 200.0, 250.0) + (100.0,) * 20
    options = sending(evaluations, losses=losses)
    async with federation(tmp_path, CLIENTS, **options) as fed:
        await fed.submit(job(rounds={"count": 8}, evaluation={"every": 1, "patience": 2}))
        ended = (await fed.until(JobEnded))[0]
    assert ended.outcome == "completed"
    assert ended.rounds_completed == 4
    assert ended.reason == "no better loss in 2 evaluations"
    assert ended.adapter is not None


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ((3, 2, 1), 1, False),
        ((3, 2, 2), 1, True),
        ((3, 2, 2.5, 2.5), 2, True),
        ((3, 2, 2.5, 1), 2, False),
        ((3, 3), 2, False),
        ((1, 2, 3), None, False),
    ],
)
def test_patience_ends_when_none_of_the_last_losses_is_the_best(losses, patience, stops):
    assert no_better(losses, patience) is stops


def test_errors_are_those_that_the_noise_gives_the_figures():
    specified, seed = job(), 20_260_724
    print("seed", seed)
    random, clients = np.random.default_rng(seed), 50
    noise, runs = noise_on_sums(specified, clients), 4000
    true = np.array([3000.0, 5000.0, 1500.0])
    found = [
        metrics_of((true + random.normal(0, noise, 3)) / clients / scale(specified), clients, specified)
        for _ in range(runs)
    ]
    for name in ("count", "accuracy", "loss", "perplexity"):
        spread = np.std([one[name] for one in found])
        assert found[0][f"{name}_error"] == pytest.approx(spread, rel=0.08), name
