"""The loop that does what handlers recorded: prepare jobs, train rounds, and hand over sealed updates."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from services.client import budgets, evaluating, state
from services.client import ledger as ledgers
from services.client.handlers import Desk, answer_ready, give_back, session_of, spent_event
from services.client.ledger import Ledger
from services.client.sessions.base import Encoded
from services.client.state import LocalJob, LocalRound, Pinned
from services.client.stopping import Stopping
from services.client.tasks import Tasks
from services.client.trainer import Cancelled, DataError, Prepared, Trainer, TrainingResult, TrainingTask
from shared.adapters.infrastructure import Infrastructure
from shared.core.secagg import chunks, sealing
from shared.errors import FedloraError, Refused, Rejected, Stale, Unavailable
from shared.events import ClientDeclined, ClientSeen, Envelope, ShareSubmitted, UpdateSubmitted
from shared.job.evaluation import DIMENSION
from shared.ports import UnitOfWork
from shared.sessions.terms import SessionTerms

RETRY_S = 1.0
Sealed = tuple[Encoded, list[UpdateSubmitted]]
Aside = Callable[..., Awaitable[Any]]
Transact = Callable[[Callable[[UnitOfWork], Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]]
log = structlog.get_logger()


@dataclass
class Worker:
    """One client's work, one piece at a time. Whatever is recorded and unfinished is done again after
    a crash; an update leaves only in the transaction that also writes the ledger."""

    desk: Desk
    trainer: Trainer
    data: Path
    heartbeat_s: float
    infrastructure: Infrastructure
    transact: Transact
    aside: Aside = asyncio.to_thread  # runs what the trainer does; a simulation's clients take turns
    activity: str = "waiting"
    tasks: Tasks = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = Tasks(self.desk, self.data, self.infrastructure)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; training in progress is cut short and done again at the next start."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self.desk.wake.clear()
                try:
                    worked = await self._work_once(stop)
                except Unavailable as error:
                    log.info("work postponed", reason=str(error))
                    await self._pause(stopping, RETRY_S)
                    continue
                except Stale as outcome:
                    log.debug("work without effect", reason=str(outcome))
                    continue
                except Exception:
                    log.exception("work failed")
                    await self._pause(stopping, RETRY_S)
                    continue
                if not worked:
                    self.activity = "waiting"
                    await self._pause(stopping, None)
        finally:
            stopping.cancel()

    async def beat(self) -> None:
        """Give signs of life until cancelled."""
        clock = self.infrastructure.clock
        while True:
            seen = ClientSeen(client_id=self.desk.client_id, activity=self.activity)
            try:
                await self.infrastructure.bus.publish(Envelope.wrap(seen))
            except Unavailable as error:
                log.debug("sign of life not sent", reason=str(error))
            await clock.sleep_until(clock.now() + timedelta(seconds=self.heartbeat_s))

    async def _pause(self, stopping: asyncio.Task[Any], seconds: float | None) -> None:
        woken = asyncio.create_task(self.desk.wake.wait())
        await asyncio.wait({woken, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()

    async def _work_once(self, stop: asyncio.Event) -> bool:
        """The most urgent piece of work; whether there was one."""
        self.desk.stopped.clear()  # before the states are read: what is closed there needs no flag
        async with self.infrastructure.units.begin() as unit:
            accepted = [found for found in await unit.select(LocalRound) if found.phase == "accepted"]
            rounds = [found for found in accepted if found.ready]
            jobs = [found for found in await unit.select(LocalJob) if found.phase == "announced"]
        telemetry = self.infrastructure.telemetry
        if rounds:
            round_ = min(rounds, key=lambda found: found.started.deadline)
            with telemetry.resume(round_.trace, "train round"):
                await self._round(round_, stop)
        elif jobs:
            with telemetry.resume(jobs[0].trace, "prepare job"):
                await self._job(jobs[0])
        return bool(rounds or jobs)

    async def _job(self, job: LocalJob) -> None:
        self.activity = "preparing"
        try:
            start = await self.tasks.fetched(job.start)
            with self.infrastructure.telemetry.span("prepare", job_id=job.job_id):
                prepared: Prepared = await self.aside(
                    self.trainer.prepare, job.job_id, job.specification, self.data, self._progress, start
                )
            await asyncio.to_thread(budgets.check_layout, job, prepared.layout)
        except (Refused, DataError) as error:
            log.warning("job declined", job_id=job.job_id, reason=str(error))
            await self._decline_job(job, str(error))
        except Exception as error:
            log.exception("preparation failed", job_id=job.job_id)
            await self._decline_job(job, f"preparation failed: {type(error).__name__}")
        else:
            await self._ready(job, prepared)

    async def _ready(self, job: LocalJob, prepared: Prepared) -> None:
        for row in prepared.skipped[:20]:
            log.warning("record skipped", row=row.row, column=row.column, reason=row.reason)

        async def work(unit: UnitOfWork) -> None:
            pinned = await unit.find(Pinned, "worker") or Pinned()
            records = self.desk.policy.declared_records or pinned.records or prepared.records
            await unit.save(pinned.replace(records=records))
            ready = state.prepared(await unit.load(LocalJob, job.job_id), prepared)
            await unit.save(ready)
            await answer_ready(ready, unit, self.desk)

        await self.transact(work)

    async def _decline_job(self, job: LocalJob, reason: str) -> None:
        async def work(unit: UnitOfWork) -> None:
            await unit.save(state.declined(await unit.load(LocalJob, job.job_id), reason))
            unit.publish(
                ClientDeclined(client_id=self.desk.client_id, job_id=job.job_id, reason=reason[:2000]),
                correlation_id=job.job_id,
                trace=job.trace,
            )

        await self.transact(work)

    async def _round(self, round_: LocalRound, stop: asyncio.Event) -> None:
        started = round_.started
        if started.deadline <= self.infrastructure.clock.now():
            await self._give_up(round_, "the deadline has passed")
            return
        try:
            self.activity = f"round {started.number}: loading"
            task = await self.tasks.of(round_)
            result = await self._train(task, stop)
            terms = SessionTerms.from_bytes(await self.infrastructure.blobs.get(started.terms))
            sealed = await asyncio.to_thread(self._seal, result, task, round_, terms)
        except Cancelled:
            log.info("training cut short", round_id=started.round_id)
        except Unavailable:
            raise
        except FedloraError as error:
            log.warning("round declined", round_id=started.round_id, reason=str(error))
            await self._give_up(round_, str(error))
        except Exception as error:
            log.exception("training failed", round_id=started.round_id)
            await self._give_up(round_, f"training failed: {type(error).__name__}")
        else:
            await self._submit(task, round_, sealed, result)

    async def _train(self, task: TrainingTask, stop: asyncio.Event) -> TrainingResult:
        def cancelled() -> bool:
            return stop.is_set() or task.round_id in self.desk.stopped

        if task.kind == "evaluate":
            with self.infrastructure.telemetry.span("evaluate", round_id=task.round_id):
                found: TrainingResult = await self.aside(
                    evaluating.evaluate,
                    self.trainer,
                    task,
                    self._progress,
                    cancelled,
                    self.desk.random.bytes,
                )
            return found
        with self.infrastructure.telemetry.span("train", round_id=task.round_id):
            trained: TrainingResult = await self.aside(self.trainer.train, task, self._progress, cancelled)
        return trained

    def _progress(self, phase: str, done: int, of: int) -> None:
        self.activity = f"{phase} {done}/{of}"

    def _seal(
        self, result: TrainingResult, task: TrainingTask, round_: LocalRound, terms: SessionTerms
    ) -> Sealed:
        """The upload, and its signed chunks for each party. Raises: Rejected for what cannot be encoded."""
        dimension = DIMENSION if task.contents is None else task.contents.dimension
        if result.update.shape != (dimension,):
            raise Rejected(f"training gave an update of shape {result.update.shape}, ({dimension},) expected")
        if not 0 <= result.steps <= task.mechanism.steps:
            raise Rejected(f"training ran {result.steps} steps, {task.mechanism.steps} were reserved")
        if result.noised != (terms.plan.noise is None):
            raise Rejected("an update needs noise once: of its own, or in a session that adds it")
        self.activity = "encrypting"
        sender = terms.sender(self.desk.client_id)
        with self.infrastructure.telemetry.span("encrypt", round_id=task.round_id):
            session = session_of(terms, self.desk)
            update = task.contents.compressed(result.update) if task.contents else result.update
            encoded = session.encrypt(round_.session, update, self.desk.random.bytes)
            contents = zip((encoded.content, *encoded.others), terms.aggregation_keys, strict=True)
            uploads = [sealing.seal(content, key, sender.info) for content, key in contents]
        if encoded.clipped and result.noised:  # without noise it tells of records what nobody may log
            log.info("coordinates clipped", round_id=task.round_id, share=encoded.clipped)
        return encoded, [
            self._signed(chunk, sender, party)
            for party, sealed in enumerate(uploads)
            for chunk in chunks.split(sealed)
        ]

    def _signed(self, chunk: chunks.Chunk, context: sealing.UploadContext, party: int) -> UpdateSubmitted:
        message = sealing.signing_message(context, chunk.index, chunk.count, chunk.sha256, chunk.payload)
        update = UpdateSubmitted(
            client_id=context.client_id,
            job_id=context.job_id,
            round_id=context.round_id,
            group_id=context.group_id,
            index=chunk.index,
            count=chunk.count,
            upload_sha256=chunk.sha256,
            payload=chunk.payload,
            signature=sealing.sign(self.desk.identity, message),
        )
        return ShareSubmitted(**dict(update), party=party) if party else update

    async def _submit(
        self, task: TrainingTask, round_: LocalRound, sealed: Sealed, result: TrainingResult
    ) -> None:
        """Outbox, ledger and round in one transaction: before it nothing has left, after it the same
        bytes leave until the broker has them. Raises: Stale when the round was closed meanwhile."""
        started, (encoded, upload) = round_.started, sealed
        if started.deadline <= self.infrastructure.clock.now():
            await self._give_up(round_, "training took longer than the deadline allows")
            return
        self.activity = "uploading"

        async def work(unit: UnitOfWork) -> None:
            found = await unit.load(LocalRound, *round_.key)
            control = None if task.control is None else state.control_after(task, result)
            await unit.save(state.ended(found, "submitted").replace(session=encoded.state, control=control))
            if result.stopping is not None:
                if await unit.find(Stopping, started.job_id) != task.stopping:
                    raise Stale("another vote was given meanwhile")
                await unit.save(result.stopping)
            job = await unit.load(LocalJob, started.job_id)
            await unit.save(job.replace(clip_norm=result.clip_norm))
            ledger = await unit.load(Ledger, started.job_id)
            await unit.save(ledgers.commit(ledger, started.round_id, result.steps))
            for event in upload:
                unit.publish(event, correlation_id=started.round_id, trace=round_.trace)
            spent = spent_event(started, result.steps, self.desk)
            unit.publish(spent, correlation_id=started.round_id, trace=round_.trace)

        with self.infrastructure.telemetry.span("upload", round_id=started.round_id, chunks=len(upload)):
            await self.transact(work)

    async def _give_up(self, round_: LocalRound, reason: str) -> None:
        async def work(unit: UnitOfWork) -> None:
            found = await unit.load(LocalRound, *round_.key)
            await unit.save(state.ended(found, "declined", reason).replace(session=b""))
            unit.publish(
                ClientDeclined(
                    client_id=self.desk.client_id,
                    job_id=round_.started.job_id,
                    round_id=round_.started.round_id,
                    group_id=round_.started.group_id,
                    reason=reason[:2000],
                ),
                correlation_id=round_.started.round_id,
                trace=round_.trace,
            )
            await give_back(round_.started, unit, self.desk, round_.trace)

        await self.transact(work)
