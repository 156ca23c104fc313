"""One type per identifier. None of them holds a dot, since they become words of a routing key."""

from typing import Annotated

from pydantic import StringConstraints

ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_Word = StringConstraints(pattern=ID_PATTERN)
_Digest = StringConstraints(pattern=r"^[0-9a-f]{64}$")

ClientId = Annotated[str, _Word]
JobId = Annotated[str, _Word]
RoundId = Annotated[str, _Word]
GroupId = Annotated[str, _Word]
ReservationId = Annotated[str, _Word]
Sha256 = Annotated[str, _Digest]


def round_id_of(job_id: JobId, number: int) -> RoundId:
    """Name the job's round `number`, counted from 1; a round that is tried again has a new number."""
    return f"{job_id}-r{number}"


def single_round_id_of(job_id: JobId, number: int) -> RoundId:
    """Name the asynchronous job's round `number` of one client, counted from 1, of all its clients."""
    return f"{job_id}-a{number}"


def is_single(round_id: RoundId) -> bool:
    """Whether it is a round of one client."""
    return round_id.rpartition("-")[2].startswith("a")
