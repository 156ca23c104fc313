"""An embedded federation of real services and real workers; only the training is scripted."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from services.client.__main__ import build as build_worker
from services.client.settings import ClientSettings
from services.client.trainer import Cancelled, Prepared, TrainingResult
from services.key_holder.__main__ import build as build_holder
from services.key_holder.settings import KeyHolderSettings
from shared.adapters.infrastructure import Endpoints, open_infrastructure
from shared.core.lora import flatten, from_safetensors
from tests.integration.scripted_federation import federation, layout_of, specification, update_of

SMALL = 0.01  # so that no coordinate meets the bound that a job's settings give
RIGHT, LOSS = 0.75, 3.0  # of each record that a known trainer measures


@dataclass
class KnownTrainer:
    """Trains to a known update, and measures known figures of as many records as `held_out`.

    `fails` makes it decline a round, `gate` holds it in training and `measuring` in an evaluation until set.
    """

    client_id: str
    dimension: int
    fails: bool = False
    gate: object = None
    measuring: object = None
    held_out: int = 0
    trained: list = field(default_factory=list)
    evaluated: list = field(default_factory=list)

    def prepare(self, job_id, specification, data, progress, start=b""):
        return Prepared(layout_of(self.dimension), 50, ())

    def train(self, task, progress, cancelled):
        if self.fails:
            raise RuntimeError("the device is gone")
        wait_for(self.gate, cancelled)
        number = int(task.round_id.rsplit("-", 1)[1][1:])
        self.trained.append(number)
        return TrainingResult(
            known_update(self.client_id, number, self.dimension), task.mechanism.steps, 0.0, 1.0
        )

    def evaluate(self, task, progress, cancelled):
        wait_for(self.measuring, cancelled)
        self.evaluated.append(int(task.round_id.rsplit("-r", 1)[1]))
        return np.tile([RIGHT, LOSS], (self.held_out, 1))


def wait_for(gate, cancelled):
    while gate is not None and not gate.wait(0.01):
        if cancelled():
            raise Cancelled("the round is over")


def known_update(client_id, number, dimension):
    return (update_of(client_id, number, dimension) * SMALL).astype(np.float32)


def known_mean(clients, number, dimension):
    return np.mean([known_update(client, number, dimension) for client in clients], axis=0, dtype=np.float64)


def job(secure="oneshot", **changes):
    """A job of two rounds on real workers; `changes` as in `specification`."""
    aggregation = {"secure": secure, **changes.pop("aggregation", {})}
    training = {"local_steps": 8, "learning_rate": 0.01, **changes.pop("training", {})}
    return specification(aggregation=aggregation, training=training, **changes)


@dataclass
class Workers:
    """The federation's workers and key holders, by name; each can be stopped and started again."""

    endpoints: Endpoints
    bus: object
    dimension: int
    policy: str = ""
    trainers: dict = field(default_factory=dict)
    services: dict = field(default_factory=dict)
    running: dict = field(default_factory=dict)

    async def start(self, name):
        """A worker, with the home that it had before."""
        home = self.endpoints.home / name
        home.mkdir(parents=True, exist_ok=True)
        if self.policy:
            (home / "worker.toml").write_text(self.policy)
        data = home / "data.txt"
        data.write_text("a record\n")
        trainer = self.trainers.setdefault(name, KnownTrainer(name, self.dimension))
        settings = ClientSettings(client_id=name, home=home, data=data, heartbeat_s=1.0)
        await self._run(name, lambda infrastructure: build_worker(infrastructure, settings, trainer))

    async def start_holder(self, name):
        """A dedicated key holder."""
        settings = KeyHolderSettings(holder_id=name, home=self.endpoints.home / name)
        await self._run(name, lambda infrastructure: build_holder(infrastructure, settings))

    async def _run(self, name, built):
        own = self.endpoints.model_copy(
            update={"home": self.endpoints.home / name, "blobs": self.endpoints.blobs_url}
        )
        infrastructure = await open_infrastructure(name, own, bus=self.bus)
        service = await built(infrastructure)
        stop, started = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(service.run(stop, started), name=name)
        await started.wait()
        self.services[name] = service
        self.running[name] = (infrastructure, stop, task)

    async def stop(self, name):
        infrastructure, stop, task = self.running.pop(name)
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        await infrastructure.close()

    async def stop_all(self):
        for name in list(self.running):
            await self.stop(name)


@asynccontextmanager
async def worker_federation(
    folder, names, *, holders=(), dimension=300, policy="", wrap=lambda bus: bus, **options
):
    """Services as in `federation`, and real workers (and key holders) beside them.

    Yields: the federation and its workers.
    """
    async with AsyncExitStack() as stack:
        fed = await stack.enter_async_context(federation(folder, [], wrap=wrap, **options))
        endpoints = Endpoints(home=folder, telemetry="off")
        workers = Workers(endpoints, fed.bus, dimension, policy)
        stack.push_async_callback(workers.stop_all)
        for name in holders:
            await workers.start_holder(name)
        for name in names:
            await workers.start(name)
        fed.clients = dict.fromkeys(names)
        await fed.registered()
        yield fed, workers


async def adapter_of(fed, event, names=("w.lora_B.weight",)):
    """The flat adapter that a round or a job ended with."""
    return flatten(from_safetensors(await fed.blobs.get(event.adapter)), names)
