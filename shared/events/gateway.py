"""What people ask for, published by the gateway."""

from shared.events.base import Event
from shared.events.ids import JobId
from shared.job.specification import JobSpecification


class JobSubmitted(Event, type="job.submitted.v1"):
    """Somebody asks the federation to train."""

    job_id: JobId
    specification: JobSpecification
    submitted_by: str = ""


class JobCancelled(Event, type="job.cancelled.v1"):
    """Somebody asks a job to stop; the round in progress is aborted."""

    job_id: JobId
    reason: str = ""
