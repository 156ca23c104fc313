"""Renyi accounting: the cross-check, and the only accountant of what has no privacy loss distribution."""

import math
from functools import lru_cache

import numpy as np
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

from shared.core.privacy.accountants.renyi import ORDERS, renyi_divergences
from shared.core.privacy.mechanisms import Mechanism


@lru_cache(maxsize=16_384)
def rdp(merged: tuple[Mechanism, ...], delta: float) -> float:
    """As an `Accountant`.

    Source: Mironov 2017, arXiv:1702.07476; converted by Canonne, Kamath, Steinke 2020, arXiv:2004.00010,
    Proposition 12.
    """
    found = float(compute_epsilon(np.asarray(ORDERS), renyi_divergences(merged), delta)[0])
    return math.inf if math.isnan(found) else found
