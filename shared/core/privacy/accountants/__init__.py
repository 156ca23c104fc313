"""Epsilon of compositions at a given delta: PLD, with RDP as the cross-check.

An accountant is one file, one line in `ACCOUNTANTS`, and passes tests/unit/test_accountants_conformance.py.
GDP is not offered: it underestimates (docs/privacy.md).
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from shared.core.privacy.accountants.pld import PLD_INTERVAL, by_pld
from shared.core.privacy.accountants.rdp import by_rdp
from shared.core.privacy.mechanisms import Mechanism, composed

__all__ = ["ACCOUNTANTS", "FIGURE_TOLERANCE", "PLD_INTERVAL", "Accountant", "epsilon", "epsilons", "forget"]

# On epsilon: what two machines, or this package and dp-accounting, may differ by for one composition, for
# their Fourier transforms round differently (7e-8 and 3e-7 were seen).
FIGURE_TOLERANCE = 1e-6

MOST_REMEMBERED = 1 << 16  # figures, of about a kilobyte


class Accountant(Protocol):
    """An upper bound on epsilon."""

    def __call__(self, compositions: Sequence[tuple[Mechanism, ...]], delta: float, /) -> list[float]:
        """Of each of some compositions.

        Args:
            compositions: each as `composed` returns it, not empty: entries once, with steps > 0, of one unit.
            delta: in (0, 1).

        Returns: of each, epsilon >= 0; infinity where none is found. It is remembered.
        """


ACCOUNTANTS: dict[str, Accountant] = {"pld": by_pld, "rdp": by_rdp}
_remembered: dict[tuple[str, float, tuple[Mechanism, ...]], float] = {}


def epsilon(mechanisms: Iterable[Mechanism], delta: float, accountant: str = "pld") -> float:
    """Smallest epsilon known for the composition, adding or removing one unit.

    Args:
        mechanisms: in any order; equal ones are merged.
        delta: in (0, 1).
        accountant: a name in ACCOUNTANTS.

    Returns: epsilon >= 0; infinity where the accountant finds none.
    Raises: ValueError for a delta outside (0, 1), an unknown accountant, or units that cannot be added.
    """
    merged = composed(mechanisms)
    known = _remembered.get((accountant, delta, merged))
    return epsilons([merged], delta, accountant)[0] if known is None else known


def epsilons(
    compositions: Sequence[Iterable[Mechanism]], delta: float, accountant: str = "pld"
) -> list[float]:
    """`epsilon` of each; at once is several times faster than one by one.

    What was found is remembered: to decide for a cohort, ask for all its compositions, then for each.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, not {delta}")
    try:
        compute = ACCOUNTANTS[accountant]
    except KeyError:
        raise ValueError(f"no accountant {accountant!r}; there are {', '.join(ACCOUNTANTS)}") from None
    keys = [(accountant, delta, composed(mechanisms)) for mechanisms in compositions]
    known = [_remembered.get(key) if key[2] else 0.0 for key in keys]
    unknown = list(dict.fromkeys(key for key, figure in zip(keys, known, strict=True) if figure is None))
    new = compute([merged for *_, merged in unknown], delta) if unknown else []
    if len(_remembered) + len(new) > MOST_REMEMBERED:
        _remembered.clear()
    found = dict(zip(unknown, new, strict=True))
    _remembered.update(found)
    return [found[key] if figure is None else figure for key, figure in zip(keys, known, strict=True)]


def forget() -> None:
    """Nothing is remembered any more, as in a fresh process; steps' distributions are kept."""
    _remembered.clear()
