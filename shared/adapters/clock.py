"""The system's clock and its cryptographic randomness."""

import asyncio
import os
from datetime import UTC, datetime

LONGEST_SLEEP_S = 3600.0  # returns early then, so that a changed system clock is noticed


class SystemClock:
    """UTC time of this machine."""

    def now(self) -> datetime:
        """See the port."""
        return datetime.now(UTC)  # noqa: TID251 - the one place where time enters

    async def sleep_until(self, moment: datetime) -> None:
        """See the port."""
        remaining_s = (moment - self.now()).total_seconds()
        if remaining_s > 0:
            await asyncio.sleep(min(remaining_s, LONGEST_SLEEP_S))


class SystemRandom:
    """The operating system's cryptographic source."""

    def bytes(self, count: int) -> bytes:
        """See the port."""
        return os.urandom(count)
