"""Rules that turn a sum of updates into one update; a new rule is one module and one line here."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.mean import mean

Rule = Callable[[Sequence[NDArray[np.float64]], Sequence[float]], NDArray[np.float32]]
RULES: Mapping[str, Rule] = {"mean": mean}

__all__ = ["RULES", "Rule", "mean"]
