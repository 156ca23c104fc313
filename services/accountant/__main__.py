"""The accountant's composition root: `python -m services.accountant`."""

from services.accountant.context import Accounting
from services.accountant.handlers import HANDLERS
from services.accountant.limits import record_configuration
from services.accountant.settings import AccountantSettings
from shared.adapters.infrastructure import Infrastructure
from shared.errors import Unavailable
from shared.service import Service, queue_for
from shared.serving import main_of

NAME = "accountant"
QUEUE = queue_for(NAME, HANDLERS)


async def build(
    infrastructure: Infrastructure, settings: AccountantSettings | None = None
) -> Service[Accounting]:
    """The service on `infrastructure`; settings come from the environment unless given."""
    context = Accounting(settings or AccountantSettings(), infrastructure.telemetry)
    await _log_configuration(infrastructure, context.settings)
    return Service(NAME, QUEUE, HANDLERS, context, infrastructure)


async def _log_configuration(infrastructure: Infrastructure, settings: AccountantSettings) -> None:
    """Raises: Unavailable when the database is away."""
    for last in (False, False, True):  # a replica that starts at the same moment may be faster
        try:
            async with infrastructure.units.begin() as unit:
                await record_configuration(unit, settings)
        except Unavailable:
            if last:
                raise
        else:
            return


if __name__ == "__main__":
    main_of(NAME, build)
