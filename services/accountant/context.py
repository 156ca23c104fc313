"""What the accountant's handlers are given."""

from dataclasses import dataclass

from services.accountant.settings import AccountantSettings
from shared.ports import Telemetry


@dataclass(frozen=True)
class Accounting:
    """Settings, and where figures of jobs are shown."""

    settings: AccountantSettings
    telemetry: Telemetry
