import pytest

from services.client.policy import Policy, check, own_epsilon, parse_policy
from shared.errors import Refused
from shared.job.specification import Aggregation, Data, JobSpecification, Model, Privacy, Task

JOB = JobSpecification(
    name="job",
    model=Model(base="smollm2-135m", task=Task.CAUSAL_LM),
    data=Data(text="text"),
    privacy=Privacy(epsilon=8, delta=1e-5),
)


def test_the_defaults_allow_a_default_job():
    assert check(JOB, 0.8, Policy()) is None


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (Policy(largest_epsilon=7.9), "privacy.epsilon"),
        (Policy(largest_delta=1e-6), "privacy.delta"),
        (Policy(least_noise_multiplier=1.0), "noise_multiplier"),
        (Policy(allowed_models=("minilm",)), "model.base"),
        (Policy(allowed_secure_protocols=()), "aggregation.secure"),
    ],
)
def test_each_bound_refuses_the_job_that_breaks_it(policy, field):
    refused = check(JOB, 0.8, policy)
    assert refused is not None
    assert refused.field == field


def test_a_job_that_hides_nothing_is_allowed_only_where_the_owner_names_it():
    opened = JOB.model_copy(update={"aggregation": Aggregation(secure="none")})
    refused = check(opened, 0.8, Policy())
    assert refused is not None
    assert refused.field == "aggregation.secure"
    named = parse_policy('allowed_secure_protocols = ["oneshot", "none"]')
    assert check(opened, 0.8, named) is None


def test_an_unknown_key_is_refused_with_its_line_and_the_fix():
    with pytest.raises(Refused) as caught:
        parse_policy("largest_delta = 1e-6\nlargest_epsilom = 3\n")
    assert "line 2" in caught.value.field
    assert "largest_epsilon" in caught.value.remedy


def test_a_wrong_value_is_refused_with_its_line():
    with pytest.raises(Refused, match="line 1"):
        parse_policy("largest_epsilon = -3")


def test_a_smaller_epsilon_of_the_owner_declines_only_a_job_without_personal_budgets():
    policy = Policy(largest_epsilon=2.0)
    assert own_epsilon(JOB, policy) is None
    assert check(JOB, 0.8, policy, own_epsilon(JOB, policy)).field == "privacy.epsilon"
    privacy = JOB.privacy.model_copy(update={"personal_budgets": True})
    personal = JOB.model_copy(update={"privacy": privacy})
    assert own_epsilon(personal, policy) == 2.0
    assert check(personal, 0.8, policy, own_epsilon(personal, policy)) is None
    assert own_epsilon(personal, Policy(largest_epsilon=8.0)) is None
    assert check(personal, 0.8, policy) is not None, "the owner has allowed less since the job was planned"


def test_a_clip_norm_that_adapts_leaves_no_room_for_an_epsilon_of_the_owners():
    privacy = JOB.privacy.model_copy(update={"personal_budgets": True, "clipping": "adaptive"})
    assert own_epsilon(JOB.model_copy(update={"privacy": privacy}), Policy(largest_epsilon=2.0)) is None
