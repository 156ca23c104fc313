"""A cohort that cannot be summed ends its job, which says why, before anyone spends budget."""

from shared.events import BudgetRequested, JobEnded
from tests.integration.scripted_federation import federation, specification


async def test_a_cohort_that_cannot_be_summed_ends_the_job_with_the_reason(tmp_path):
    async with federation(tmp_path, ["a", "b"]) as fed:
        await fed.registered()
        await fed.submit(specification(aggregation={"secure": "oneshot", "rotate": True}))
        [ended] = await fed.until(JobEnded)
        assert (ended.outcome, ended.rounds_completed) == ("failed", 0)
        assert "a cohort of 2 cannot be summed: aggregation.rotate" in ended.reason
        assert not fed.of(BudgetRequested)
