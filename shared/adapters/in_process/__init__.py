"""The bus inside one process: the broker's semantics without a broker."""

from shared.adapters.in_process.bus import InProcessBus, open_in_process

__all__ = ["InProcessBus", "open_in_process"]
