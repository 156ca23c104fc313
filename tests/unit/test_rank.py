"""Rank auto: from public facts, a power of two within 4 and 64."""

from shared.core.lora import automatic_rank
from shared.job.refusals import refusals
from shared.job.specification import JobSpecification


def test_the_formula_by_hand():
    # b sqrt(T) / (kappa sigma sqrt(sum m)) = 800 x 20 / (20 x 2 x 100) = 4; its square is 16.
    assert automatic_rank(800, 400, 2.0, 10_000, 20.0) == 16
    assert automatic_rank(799, 400, 2.0, 10_000, 20.0) == 8  # rounded down to a power of two
    assert automatic_rank(800, 400, 2.0, 10_000, 10.0) == 64


def test_more_noise_never_gives_more_rank_and_more_data_never_less():
    noises = [automatic_rank(2000, 100, 0.2 * n, 16_000, 20.0) for n in range(1, 40)]
    amounts = [automatic_rank(50 * n, 100, 1.0, 16_000, 20.0) for n in range(1, 100)]
    assert noises == sorted(noises, reverse=True)
    assert amounts == sorted(amounts)
    assert {4, 64} <= set(noises) | set(amounts)


def test_rank_auto_without_a_number_of_records_is_refused_with_what_to_set():
    job = {
        "name": "t",
        "model": {"base": "smollm2-135m", "task": "causal-lm"},
        "data": {"text": "text"},
        "lora": {"rank": "auto"},
    }
    (refused,) = refusals(JobSpecification.model_validate(job))
    assert (refused.field, "lora.rank: 8" in refused.remedy) == ("lora.records", True)
    job["lora"]["records"] = 5000
    assert refusals(JobSpecification.model_validate(job)) == ()
