"""Tensors that a job starts from, in place of the public seed's: taken, checked, named by what they are."""

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from shared.core.lora import from_safetensors, to_safetensors
from shared.errors import Refused, Rejected, Unavailable
from shared.events.values import BlobRef
from shared.ports import BlobStore

MOST_BYTES = 512 * 1024 * 1024


def starts_router(blobs: BlobStore) -> APIRouter:
    """POST /starts."""
    router = APIRouter(tags=["jobs"])

    @router.post("/starts", status_code=201)
    async def take(request: Request) -> dict[str, str]:
        """Keep an adapter's tensors, float32 safetensors by PEFT's names; the answer names them."""
        content = await run_in_threadpool(checked, await request.body())
        ref = await blobs.put(content)
        return {"start": f"{ref.sha256}:{ref.size_bytes}"}

    return router


async def start_of(name: str, blobs: BlobStore) -> BlobRef | None:
    """What `take` named; None for nothing. Raises: Refused for what was never taken."""
    if not name:
        return None
    digest, _, size = name.partition(":")
    try:
        ref = BlobRef(sha256=digest, size_bytes=int(size))
        checked(await blobs.get(ref))
    except (ValueError, Rejected, Unavailable):
        raise Refused("start", f"{name[:80]} names nothing that was taken", "POST /starts first") from None
    return ref


def checked(content: bytes) -> bytes:
    """The tensors, in the one way in which they are written. Raises: Refused for anything else."""
    if len(content) > MOST_BYTES:
        raise Refused("start", f"{len(content)} bytes, at most {MOST_BYTES}", "give the adapter alone")
    try:
        tensors = from_safetensors(content)
    except Rejected as error:
        raise Refused("start", str(error), "give float32 safetensors, as `fedlora export` writes") from None
    wrong = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    if wrong or not tensors:
        reason = f"{wrong[0]} is not finite" if wrong else "there are no tensors"
        raise Refused("start", reason, "give a trained adapter")
    return to_safetensors(tensors)
