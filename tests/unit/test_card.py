"""What a model card says is public, true of the job, and readable by machines."""

from datetime import UTC, datetime

import yaml

from services.gateway.budgets import BudgetView
from services.gateway.card import model_card
from services.gateway.state import JobView, RoundView
from services.gateway.statement import statement_of
from shared.events.values import BlobRef
from tests.unit.test_refusals_aggregation import job

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def view(**changes):
    done = RoundView(
        number=1,
        round_id="j-r1",
        status="completed",
        contributors=("a", "b"),
        metrics={"loss": 0.5, "loss_error": 0.01, "count": 90.0, "count_error": 5.0},
    )
    basics = JobView(
        job_id="j-1",
        specification=job(),
        noise_multiplier=1.0,
        rounds={1: done},
        records={"a": 40, "b": 60, "absent": 1000},
    )
    return basics.replace(**changes)


def card(found):
    return model_card(found, [], statement_of(found, []))


def test_a_card_has_front_matter_that_hubs_read():
    front = yaml.safe_load(card(view()).split("---")[1])
    assert front["base_model"] == "m"
    assert front["library_name"] == "peft"
    assert "differential-privacy" in front["tags"]


def test_a_card_tells_of_data_what_clients_declared_and_of_metrics_how_noisy_they_are():
    text = card(view())
    assert "2 clients" in text
    assert "100 records in all, 40 to 60 each" in text
    assert "| 1 | 0.5 +- 0.01 | 90 +- 5 |" in text
    assert "## Privacy" in text
    assert "DP" in text


def test_a_card_warns_of_weights_that_peft_does_not_read():
    assert "fedlora merge" not in card(view())
    changed = card(view(base=BlobRef(sha256="ab" * 32, size_bytes=1)))
    assert "fedlora merge" in changed


def test_a_lower_limit_of_a_client_is_in_the_statement_and_the_card_and_its_name_is_not():
    budgets = [
        BudgetView(job_id="j-1", client_id="hospital", epsilon_limit=2.0),
        BudgetView(job_id="j-1", client_id="clinic", epsilon_limit=job().privacy.epsilon),
        BudgetView(job_id="j-1", client_id="unheard"),
    ]
    said = statement_of(view(), iter(budgets))
    assert "For 1 client the limit is lower, and epsilon_k at most 2." in said.formal
    written = model_card(view(), [], said)
    assert said.formal in written
    assert "hospital" not in written
