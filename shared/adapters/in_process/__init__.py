"""The bus inside one process: the broker's semantics without a broker."""

from shared.adapters.in_process.bus import DELIVERY_LIMIT, InProcessBus, open_in_process

__all__ = ["DELIVERY_LIMIT", "InProcessBus", "open_in_process"]
