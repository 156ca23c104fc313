"""The key holder's composition root: `python -m services.key_holder`."""

import asyncio

from services.key_holder.handlers import HANDLERS, Holding, check_terms
from services.key_holder.settings import KeyHolderSettings, load_sealing_key
from shared.adapters.infrastructure import Endpoints, Infrastructure
from shared.adapters.key_file import load_signing_key
from shared.core.secagg.sealing import SealingKey
from shared.ports import UnitOfWork
from shared.service import Service, inbox_for
from shared.serving import main_of, mistakes_explained
from shared.sessions.holding import Keeper
from shared.sessions.terms import SessionTerms


class KeyHolderService(Service[Holding]):
    """The service loop over the holder's inbox; it announces itself when it starts."""

    def __init__(self, infrastructure: Infrastructure, settings: KeyHolderSettings) -> None:
        sealing_key = load_sealing_key(settings.folder / "sealing.key")

        async def key_of(job_id: str, unit: UnitOfWork) -> SealingKey | None:
            return sealing_key

        async def check(terms: SessionTerms, unit: UnitOfWork) -> None:
            await check_terms(terms, settings.fewest)

        identity = load_signing_key(settings.folder / "signing.key")
        keeper = Keeper(settings.holder_id, identity, infrastructure.blobs, key_of, check)
        context = Holding(keeper, sealing_key, settings.keep_s)
        queue = inbox_for(settings.holder_id, HANDLERS)
        super().__init__(settings.holder_id, queue, HANDLERS, context, infrastructure)

    async def run(self, stop: asyncio.Event, started: asyncio.Event | None = None) -> None:
        """As every service; announces itself first."""
        await self.infrastructure.bus.declare(self._queue)
        await self.transact(self._announce)
        await super().run(stop, started)

    async def _announce(self, unit: UnitOfWork) -> None:
        unit.publish(self.context.seen())


async def build(infrastructure: Infrastructure, settings: KeyHolderSettings) -> KeyHolderService:
    """The key holder on `infrastructure`, with its keys in `settings.home`."""
    return await asyncio.to_thread(KeyHolderService, infrastructure, settings)


def main() -> None:
    """Read the environment and serve."""
    with mistakes_explained():
        settings = KeyHolderSettings()
    if "home" not in settings.model_fields_set:
        settings = settings.model_copy(update={"home": Endpoints().home})

    async def built(infrastructure: Infrastructure) -> KeyHolderService:
        return await build(infrastructure, settings)

    main_of(settings.holder_id, built, login=settings.holder_id)


if __name__ == "__main__":
    main()
