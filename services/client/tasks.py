"""What training needs for a round: the adapter, what is added to the base, and what this client keeps."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.client import budgets, evaluating
from services.client.handlers import Desk
from services.client.state import Control, LocalJob, LocalRound, Pinned, contents_of
from services.client.stopping import Stopping
from services.client.trainer import TrainingTask
from shared.adapters.infrastructure import Infrastructure
from shared.core.lora import from_safetensors
from shared.errors import Rejected
from shared.events.values import BlobRef, Layout
from shared.sessions.contents import Contents

RECENT = 4  # blobs that a worker keeps in memory: an adapter, a base, and those of another job


@dataclass
class Tasks:
    """Makes tasks of rounds.

    Attributes:
        desk: the worker's.
        data: the owner's records.
        infrastructure: where adapters come from, and where the client's own states are.
        recent: the last blobs that were fetched, by hash, the latest last.
    """

    desk: Desk
    data: Path
    infrastructure: Infrastructure
    recent: dict[str, bytes] = field(default_factory=dict)

    async def of(self, round_: LocalRound) -> TrainingTask:
        """Everything that training needs. Raises: Rejected for an adapter that is not the job's."""
        started = round_.started
        async with self.infrastructure.units.begin() as unit:
            job = await unit.load(LocalJob, started.job_id)
            pinned = await unit.load(Pinned, "worker")
            stopping = await unit.find(Stopping, started.job_id)
        if job.layout is None or pinned.records is None:
            raise Rejected("the job is not prepared")
        with self.infrastructure.telemetry.span("load adapter", round_id=started.round_id):
            adapter = from_safetensors(await self.fetched(started.adapter))
            base = await self.fetched(started.base)
        check_adapter(adapter, job.layout)
        contents, mechanism = contents_of(job, started), started.reservation.mechanism
        clip_norm = await asyncio.to_thread(budgets.clip_norm, job, mechanism.noise_multiplier, contents)
        return TrainingTask(
            kind=started.kind,
            hold_out=evaluating.hold_out_of(job.specification, self.desk.identity),
            job_id=started.job_id,
            round_id=started.round_id,
            specification=job.specification,
            data=self.data,
            adapter=adapter,
            contents=contents,
            base=from_safetensors(base) if base else {},
            start=await self.fetched(job.start),
            control=await self._control(round_, contents),
            stopping=stopping,
            mechanism=mechanism,
            declared_records=pinned.records,
            clip_norm=clip_norm,
        )

    async def fetched(self, ref: BlobRef | None) -> bytes:
        """What `ref` names, from the last few that were fetched where it is among them; empty for None."""
        if ref is None:
            return b""
        content = self.recent.pop(ref.sha256, None)
        content = await self.infrastructure.blobs.get(ref) if content is None else content
        self.recent[ref.sha256] = content  # the latest is last
        while len(self.recent) > RECENT:
            self.recent.pop(next(iter(self.recent)))
        return content

    async def _control(self, round_: LocalRound, contents: Contents | None) -> NDArray[np.float64] | None:
        """SCAFFOLD's c - c_k, (d,); None without. Raises: Rejected for one of another length."""
        started = round_.started
        if started.control is None or contents is None:
            return None
        common = np.frombuffer(await self.infrastructure.blobs.get(started.control), "<f8")
        if common.size != contents.dimension or not np.isfinite(common).all():
            raise Rejected(f"a control variate of {common.size} values, {contents.dimension} expected")
        async with self.infrastructure.units.begin() as unit:
            own = await unit.find(Control, started.job_id)
        return common if own is None else common - np.frombuffer(own.values, "<f8")


def check_adapter(adapter: Mapping[str, NDArray[Any]], layout: Layout) -> None:
    """Raises: Rejected unless `adapter` holds exactly the layout's trainable tensors, finite float32."""
    expected = {tensor.name: tensor.shape for tensor in layout.trainable}
    found = {name: tuple(tensor.shape) for name, tensor in adapter.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        raise Rejected(f"the adapter is not the job's: {', '.join(wrong[:3])}")
    for name, tensor in adapter.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise Rejected(f"the adapter's {name} is not finite float32")
