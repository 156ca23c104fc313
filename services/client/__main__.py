"""The client worker's composition root: `python -m services.client`."""

import asyncio

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.client.handlers import HANDLERS, Desk
from services.client.keeping import keeper_of
from services.client.policy import Policy, read_policy
from services.client.settings import ClientSettings
from services.client.trainer import Trainer
from services.client.worker import Worker
from shared.adapters.infrastructure import Endpoints, Infrastructure
from shared.adapters.key_file import load_signing_key
from shared.events import ClientJoined
from shared.ports import UnitOfWork
from shared.service import Service, inbox_for
from shared.serving import main_of, mistakes_explained


class ClientService(Service[Desk]):
    """The service loop over the client's inbox, with the working loop and the signs of life beside it."""

    def __init__(
        self,
        infrastructure: Infrastructure,
        settings: ClientSettings,
        trainer: Trainer,
        key: Ed25519PrivateKey,
        policy: Policy,
    ) -> None:
        self._key = key
        desk = Desk(
            client_id=settings.client_id,
            policy=policy,
            identity=self._key,
            blobs=infrastructure.blobs,
            random=infrastructure.random,
            keeper=keeper_of(settings.client_id, self._key, infrastructure.blobs),
        )
        super().__init__(
            settings.client_id, inbox_for(settings.client_id, HANDLERS), HANDLERS, desk, infrastructure
        )
        self.worker = Worker(
            desk=desk,
            trainer=trainer,
            data=settings.data.expanduser(),
            heartbeat_s=settings.heartbeat_s,
            infrastructure=infrastructure,
            transact=self.transact,
        )

    async def run(self, stop: asyncio.Event, started: asyncio.Event | None = None) -> None:
        """As every service; joins first, and drains by cutting training short."""
        await self.infrastructure.bus.declare(inbox_for(self.name, HANDLERS))
        await self.transact(self._join)
        working = asyncio.create_task(self.worker.run(stop), name=f"{self.name} work")
        beating = asyncio.create_task(self.worker.beat(), name=f"{self.name} signs of life")
        try:
            await super().run(stop, started)
        except asyncio.CancelledError:
            working.cancel()
            raise
        finally:
            stop.set()
            beating.cancel()
            await asyncio.gather(beating, working, return_exceptions=True)

    async def _join(self, unit: UnitOfWork) -> None:
        verify_key = self._key.public_key().public_bytes_raw()
        unit.publish(ClientJoined(client_id=self.name, verify_key=verify_key))


async def build(infrastructure: Infrastructure, settings: ClientSettings, trainer: Trainer) -> ClientService:
    """The worker on `infrastructure`. Raises: Refused when the owner's policy file has a mistake."""
    key = await asyncio.to_thread(load_signing_key, settings.key_path)
    policy = await asyncio.to_thread(read_policy, settings.policy_path)
    return ClientService(infrastructure, settings, trainer, key, policy)


def trainer_for(settings: ClientSettings, infrastructure: Infrastructure) -> Trainer:
    """What trains with this worker's device, memory and cache."""
    from services.client.data import TokenCache  # noqa: PLC0415 - as below
    from services.client.training.trainer import LoraTrainer  # noqa: PLC0415 - torch, only where it trains

    return LoraTrainer(
        span=infrastructure.telemetry.span,
        device=settings.device,
        memory_mib=settings.memory_mib,
        max_rank=settings.max_rank,
        token_cache=TokenCache(settings.token_cache),
    )


def main() -> None:
    """Read the environment and serve."""
    with mistakes_explained():
        settings = ClientSettings()
    if "home" not in settings.model_fields_set:
        settings = settings.model_copy(update={"home": Endpoints().home})

    async def built(infrastructure: Infrastructure) -> ClientService:
        trainer = trainer_for(settings, infrastructure)
        return await build(infrastructure, settings, trainer)

    main_of(settings.client_id, built, login=settings.client_id)


if __name__ == "__main__":
    main()
