"""Transactions on SQLite and PostgreSQL: inbox, states, outbox, deadlines and journals."""

from shared.adapters.database.engine import migrate
from shared.adapters.database.units import DatabaseUnits, open_units

__all__ = ["DatabaseUnits", "migrate", "open_units"]
