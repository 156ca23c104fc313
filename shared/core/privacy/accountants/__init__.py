"""Epsilon of a composition at a given delta: PLD, with RDP as the cross-check.

An accountant is one file, one line in `ACCOUNTANTS`, and passes tests/unit/test_accountants_conformance.py.
GDP is not offered: it underestimates (docs/privacy.md).
"""

from collections.abc import Iterable
from typing import Protocol

from shared.core.privacy.accountants.pld import PLD_INTERVAL, pld
from shared.core.privacy.accountants.rdp import rdp
from shared.core.privacy.mechanisms import Mechanism, composed

__all__ = ["ACCOUNTANTS", "PLD_INTERVAL", "Accountant", "epsilon"]


class Accountant(Protocol):
    """An upper bound on epsilon."""

    def __call__(self, merged: tuple[Mechanism, ...], delta: float, /) -> float:
        """Of a composition.

        Args:
            merged: as `composed` returns it, not empty: each entry once, with steps > 0, of one unit.
            delta: in (0, 1).

        Returns: epsilon >= 0; infinity where none is found. It may be kept: the same for the same arguments.
        """


ACCOUNTANTS: dict[str, Accountant] = {"pld": pld, "rdp": rdp}


def epsilon(mechanisms: Iterable[Mechanism], delta: float, accountant: str = "pld") -> float:
    """Smallest epsilon known for the composition, adding or removing one unit.

    Args:
        mechanisms: in any order; equal ones are merged.
        delta: in (0, 1).
        accountant: a name in ACCOUNTANTS.

    Returns: epsilon >= 0; infinity where the accountant finds none.
    Raises: ValueError for a delta outside (0, 1), an unknown accountant, or units that cannot be added.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, not {delta}")
    try:
        compute = ACCOUNTANTS[accountant]
    except KeyError:
        raise ValueError(f"no accountant {accountant!r}; there are {', '.join(ACCOUNTANTS)}") from None
    merged = composed(mechanisms)
    return compute(merged, delta) if merged else 0.0
