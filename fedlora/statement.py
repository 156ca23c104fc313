"""The privacy guarantee of a job, as the gateway shows it, in words."""

from collections.abc import Mapping
from typing import Any

from shared.core.privacy import Mechanism
from shared.core.privacy.statements import Terms, statement


def statements(job: Mapping[str, Any]) -> list[str]:
    """A paragraph in plain words and one in formal terms; none before the job was accepted."""
    specification, noise = job["specification"], job["noise_multiplier"]
    if specification is None or noise is None:
        return []
    privacy = specification["privacy"]
    said = statement(
        Terms(
            a_round=Mechanism(privacy["sampling_rate"], noise, specification["training"]["local_steps"]),
            clip_norm=privacy["clip_norm"],
            epsilon_limit=privacy["epsilon"],
            delta=privacy["delta"],
            rounds_planned=specification["rounds"]["count"],
            rounds_completed=sum(one["status"] == "completed" for one in job["rounds"]),
            secure_aggregation=specification.get("aggregation", {}).get("secure", "none"),
            spent={budget["client_id"]: budget["epsilon"] for budget in job["budgets"]},
        )
    )
    return [said.plain, said.formal]
