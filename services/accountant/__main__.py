"""The accountant's composition root: `python -m services.accountant`."""

from services.accountant.handlers import HANDLERS
from services.accountant.settings import AccountantSettings
from shared.adapters.infrastructure import Infrastructure
from shared.service import Service, queue_for
from shared.serving import main_of

NAME = "accountant"
QUEUE = queue_for(NAME, HANDLERS)


async def build(
    infrastructure: Infrastructure, settings: AccountantSettings | None = None
) -> Service[AccountantSettings]:
    """The service on `infrastructure`; settings come from the environment unless given."""
    context = settings or AccountantSettings()
    return Service(NAME, QUEUE, HANDLERS, context, infrastructure)


if __name__ == "__main__":
    main_of(NAME, build)
