"""Renyi accounting: the cross-check, and the only accountant of what has no privacy loss distribution."""

import math
from collections.abc import Sequence

import numpy as np

from shared.core.privacy.accountants.renyi import ORDERS, renyi_divergences
from shared.core.privacy.mechanisms import Mechanism

_ORDERS = np.asarray(ORDERS)


def by_rdp(compositions: Sequence[tuple[Mechanism, ...]], delta: float) -> list[float]:
    """As an `Accountant`.

    Source: Mironov 2017, arXiv:1702.07476; converted by Canonne, Kamath, Steinke 2020, arXiv:2004.00010,
    Proposition 12, and, where delta bounds the total variation, by delta <= sqrt(1 - exp(-divergence)): what
    dp-accounting's compute_epsilon does, for all orders at once.
    """
    slack = np.log1p(-1 / _ORDERS) - np.log(delta * _ORDERS) / (_ORDERS - 1)
    found = []
    for merged in compositions:
        divergences = renyi_divergences(merged)
        at_orders = np.where(delta**2 + np.expm1(-divergences) > 0, 0.0, divergences + slack)
        least = float(np.nanmin(at_orders, initial=math.inf))
        found.append(max(0.0, least))
    return found
