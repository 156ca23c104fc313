"""Telemetry that tells nobody: for tests, and for FEDLORA_TELEMETRY=off."""

import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from shared.events.base import Envelope


class NoTelemetry:
    """Silent, but its roots are valid W3C contexts."""

    def process(self, envelope: Envelope) -> AbstractContextManager[None]:
        """See the port."""
        return nullcontext()

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - as in the port
        """See the port."""
        return nullcontext()

    def resume(self, traceparent: str, name: str) -> AbstractContextManager[None]:
        """See the port."""
        return nullcontext()

    def current(self) -> str:
        """See the port."""
        return ""

    def new_root(self) -> str:
        """See the port."""
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"

    def export_root(
        self, traceparent: str, name: str, start: datetime, end: datetime, attributes: Mapping[str, Any]
    ) -> None:
        """See the port."""

    def count(self, name: str, value: float = 1, **attributes: str) -> None:
        """See the port."""

    def gauge(self, name: str, value: float, **attributes: str) -> None:
        """See the port."""

    def observe(self, name: str, value: float, **attributes: str) -> None:
        """See the port."""

    def shutdown(self) -> None:
        """See the port."""
