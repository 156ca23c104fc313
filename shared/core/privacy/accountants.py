"""Epsilon of a composition at a given delta: PLD, with RDP as the cross-check.

PLD: Koskela et al. 2020, arXiv:1906.03049, by Google's dp-accounting, discretised pessimistically,
so that the figure is an upper bound. RDP: Mironov 2017, arXiv:1702.07476. GDP is not offered: it
underestimates (docs/privacy.md).
"""

import logging
import math
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from numpy.typing import NDArray

from shared.core.privacy.mechanisms import Mechanism, composed

PLD_INTERVAL = 1e-3  # of the discretised privacy loss; pessimistic, so epsilon is rounded up by it
ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
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
    parts = [_pld_of_step(m.sampling_rate, m.noise_multiplier).self_compose(m.steps) for m in mechanisms]
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return _finite_or_infinite(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def _pld_of_step(sampling_rate: float, noise_multiplier: float) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=PLD_INTERVAL,
        use_connect_dots=True,
    )


@lru_cache(maxsize=16_384)
def _rdp(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    rdp = sum(_rdp_of_step(m.sampling_rate, m.noise_multiplier) * m.steps for m in mechanisms)
    return _finite_or_infinite(compute_epsilon(np.asarray(ORDERS), rdp, delta)[0])


@lru_cache(maxsize=256)
def _rdp_of_step(sampling_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """Renyi divergence of one step at each order; composition multiplies it by the steps."""
    accountant = RdpAccountant(ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    gaussian = dp_event.GaussianDpEvent(noise_multiplier)
    accountant.compose(dp_event.PoissonSampledDpEvent(sampling_rate, gaussian))
    return np.asarray(accountant.rdp, np.float64)


def _finite_or_infinite(found: float) -> float:
    return math.inf if math.isnan(found) else float(found)


ACCOUNTANTS: dict[str, Callable[[tuple[Mechanism, ...], float], float]] = {"pld": _pld, "rdp": _rdp}
