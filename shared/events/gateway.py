"""What people ask for, published by the gateway."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from shared.core.privacy.limits import LimitName, possible
from shared.events.base import Event
from shared.events.ids import ClientId, JobId
from shared.events.values import BlobRef
from shared.job.specification import JobSpecification


class JobSubmitted(Event, type="job.submitted.v1"):
    """Somebody asks the federation to train."""

    job_id: JobId
    specification: JobSpecification
    submitted_by: str = ""
    start: BlobRef | None = None  # tensors, float32, safetensors, in place of the public seed's


class JobCancelled(Event, type="job.cancelled.v1"):
    """Somebody asks a job to stop; the round in progress is aborted."""

    job_id: JobId
    reason: str = ""


Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1_000)]


class SuspensionRequested(Event, type="suspension.requested.v1"):
    """A person who knows something about a client says that a job shall not ask it any more, and why."""

    job_id: JobId
    client_id: ClientId
    reason: Sentence
    requested_by: Sentence


class ReinstatementRequested(Event, type="reinstatement.requested.v1"):
    """A person says that a job shall ask a suspended client again, and why."""

    job_id: JobId
    client_id: ClientId
    reason: Sentence
    requested_by: Sentence


class LimitRaised(Event, type="limit.raised.v1"):
    """An administrator raises a limit of the accountant, for everyone or for one client, and says why."""

    limit: LimitName
    client_id: ClientId | None = None
    value: Annotated[float, Field(gt=0)]
    reason: Sentence
    raised_by: Sentence

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not possible(self.limit, self.value):
            raise ValueError(f"{self.limit} cannot be {self.value:g}")
        return self
