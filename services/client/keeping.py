"""The worker as a key holder of its own cohort: for jobs that it takes part in, and no others."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.client.state import LocalJob, plan_of
from shared.core.secagg.sealing import SealingKey
from shared.errors import Rejected, Unavailable
from shared.job.evaluation import DIMENSION, evaluates
from shared.ports import BlobStore, UnitOfWork
from shared.sessions.holding import Keeper
from shared.sessions.terms import SessionTerms


def keeper_of(client_id: str, identity: Ed25519PrivateKey, blobs: BlobStore) -> Keeper:
    """The worker's seat in committees."""
    return Keeper(client_id, identity, blobs, _sealing_key, _check)


async def _sealing_key(job_id: str, unit: UnitOfWork) -> SealingKey | None:
    job = await unit.find(LocalJob, job_id)
    return SealingKey.from_bytes(job.sealing_key) if job is not None and job.sealing_key else None


async def _check(terms: SessionTerms, unit: UnitOfWork) -> None:
    job = await unit.find(LocalJob, terms.job_id)
    if job is None or job.phase == "announced":
        raise Unavailable("the job is not prepared yet")
    if job.phase != "ready":
        raise Rejected(f"the job is {job.phase} here")
    evaluation = evaluates(job.specification) and terms.dimension == DIMENSION
    plans = [plan_of(job, "train"), *([plan_of(job, "evaluate")] if evaluation else [])]
    if terms.plan not in plans:
        raise Rejected("updates are summed in another way than the job announced")
