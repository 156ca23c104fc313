"""Epsilon of a composition at a given delta: PLD, with RDP as the cross-check.

PLD: Koskela et al. 2020, arXiv:1906.03049, by Google's dp-accounting, discretised pessimistically,
so that the figure is an upper bound. RDP: Mironov 2017, arXiv:1702.07476. GDP is not offered: it
underestimates (docs/privacy.md).
"""

import logging
import math
from collections.abc import Callable, Iterable
from functools import lru_cache

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation, PrivacyAccountant
from dp_accounting.rdp import RdpAccountant

from shared.core.privacy.mechanisms import Mechanism, composed

PLD_INTERVAL = 1e-3  # of the discretised privacy loss; pessimistic, so epsilon is rounded up by it
# RDP orders that do not converge are left out, which can only raise epsilon: not worth a line each.
logging.getLogger("absl").setLevel(logging.ERROR)


def epsilon(mechanisms: Iterable[Mechanism], delta: float, accountant: str = "pld") -> float:
    """Smallest epsilon known for the composition, adding or removing one record.

    Args:
        mechanisms: in any order; equal ones are merged.
        delta: in (0, 1).
        accountant: a name in ACCOUNTANTS.

    Returns: epsilon >= 0; infinity where the accountant finds none.
    Raises: ValueError for a delta outside (0, 1) or an unknown accountant.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, not {delta}")
    try:
        compute = ACCOUNTANTS[accountant]
    except KeyError:
        raise ValueError(f"no accountant {accountant!r}; there are {', '.join(ACCOUNTANTS)}") from None
    merged = composed(mechanisms)
    return compute(merged, delta) if merged else 0.0


@lru_cache(maxsize=16_384)
def _pld(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    accountant = PLDAccountant(
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=PLD_INTERVAL
    )
    return _epsilon(accountant, mechanisms, delta)


@lru_cache(maxsize=16_384)
def _rdp(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    return _epsilon(accountant, mechanisms, delta)


def _epsilon(accountant: PrivacyAccountant, mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    for mechanism in mechanisms:
        event = dp_event.PoissonSampledDpEvent(
            mechanism.sampling_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
        )
        accountant.compose(event, mechanism.steps)
    found = float(accountant.get_epsilon(delta))
    return found if not math.isnan(found) else math.inf


ACCOUNTANTS: dict[str, Callable[[tuple[Mechanism, ...], float], float]] = {"pld": _pld, "rdp": _rdp}
