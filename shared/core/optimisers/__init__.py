"""What the server does with a round's mean update: pure states and steps, a table of them."""

from shared.core.optimisers.optimiser import Mean, Optimiser, Options, Participation, State, advance
from shared.core.optimisers.saving import from_bytes, to_bytes
from shared.core.optimisers.table import OPTIMISERS

__all__ = [
    "OPTIMISERS",
    "Mean",
    "Optimiser",
    "Options",
    "Participation",
    "State",
    "advance",
    "from_bytes",
    "to_bytes",
]
