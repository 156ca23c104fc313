"""Real workers that can be stopped and started, on a bus that loses or delays what they say."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
from safetensors.numpy import load

from services.client.__main__ import build
from services.client.settings import ClientSettings
from services.client.trainer import Prepared, TrainingResult
from shared.adapters.infrastructure import Endpoints, open_infrastructure
from shared.core.lora import initial_tensor
from shared.events import StageAnswered, UpdateSubmitted
from tests.integration.scripted_federation import federation, layout_of, update_of

DIMENSION = 300
NAME = "w.lora_B.weight"
UPLOAD = "upload"


class Filtered:
    """A bus that loses what `silent` clients say in a stage, and keeps one `delayed` message until `go`.

    Attributes:
        reached: the delayed message is there.
        said: (client, stage) of what went out.
    """

    def __init__(self, bus, silent):
        self.bus, self.silent, self.delayed = bus, dict(silent), None
        self.reached, self.go, self.said = asyncio.Event(), asyncio.Event(), []

    def __getattr__(self, name):
        return getattr(self.bus, name)

    async def publish(self, envelope):
        event = envelope.open()
        if isinstance(event, StageAnswered | UpdateSubmitted):
            said = event.client_id, UPLOAD if isinstance(event, UpdateSubmitted) else event.stage
            if event.client_id in self.silent.get(said[1], ()):
                return
            if said == self.delayed:
                self.reached.set()
                await self.go.wait()
            self.said.append(said)
        await self.bus.publish(envelope)

    async def until(self, client, stage):
        """Return once the delayed message is there, and what `client` says in `stage` went out."""
        async with asyncio.timeout(20):
            await self.reached.wait()
            while (client, stage) not in self.said:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)


class Trainer:
    """Trains to a known update at once."""

    def __init__(self, client_id):
        self.client_id, self.trained = client_id, []

    def prepare(self, job_id, specification, data, progress, start=b""):
        return Prepared(layout_of(DIMENSION), 50, ())

    def train(self, task, progress, cancelled):
        number = int(task.round_id.rsplit("-r", 1)[1])
        self.trained.append(number)
        update = update_of(self.client_id, number, DIMENSION)
        return TrainingResult(update, task.mechanism.steps, 0.0, task.clip_norm)


class Workers:
    """By name; each has a home that outlives it."""

    def __init__(self, folder, bus):
        self.folder, self.bus, self.trainers, self.running = folder, bus, {}, {}

    async def start(self, name):
        home = self.folder / name
        home.mkdir(exist_ok=True)
        (home / "data.txt").write_text("a record\n")
        blobs = Endpoints(home=self.folder).blobs_url
        endpoints = Endpoints(home=home, telemetry="off", blobs=blobs)
        infrastructure = await open_infrastructure(name, endpoints, bus=self.bus)
        trainer = self.trainers.setdefault(name, Trainer(name))
        settings = ClientSettings(client_id=name, home=home, data=home / "data.txt")
        service = await build(infrastructure, settings, trainer)
        stop = asyncio.Event()
        self.running[name] = infrastructure, stop, asyncio.create_task(service.run(stop))

    async def stop(self, name):
        infrastructure, stop, task = self.running.pop(name)
        stop.set()
        await task
        await infrastructure.close()

    async def stop_all(self):
        self.bus.go.set()
        for name in list(self.running):
            await self.stop(name)


@asynccontextmanager
async def at_work(folder, names, silent=()):
    """Services, and real workers beside them."""
    async with federation(folder, ()) as fed:
        workers = Workers(folder, Filtered(fed.bus, silent))
        try:
            for name in names:
                await workers.start(name)
            fed.clients = dict.fromkeys(names)
            await fed.registered()
            yield fed, workers
        finally:
            await workers.stop_all()


async def moved(fed, ended):
    """By how much a job moved its adapter (DIMENSION,)."""
    adapter = load(await fed.blobs.get(ended.adapter))[NAME].astype(np.float64)
    return adapter - initial_tensor(0, NAME, (DIMENSION,), "ffa")


def mean_of(names, number):
    """Of the updates that these workers train in that round."""
    return np.mean([update_of(name, number, DIMENSION) for name in names], axis=0, dtype=np.float64)
