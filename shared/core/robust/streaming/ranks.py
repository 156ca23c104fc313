"""Which ranks the coordinate-wise rules average, and how many hostile updates each bears."""

from shared.errors import Rejected


def kept(updates: int, trim: int) -> tuple[int, int]:
    """The first rank that is kept, from 0, and the one after the last.

    Raises: Rejected unless updates > 2 trim, and for a negative trim.
    """
    if trim < 0:
        raise Rejected(f"a trim of {trim}: give 0 or more")
    if updates <= 2 * trim:
        raise Rejected(f"{updates} updates, and a trim of {trim} takes away {2 * trim}: give a smaller one")
    return trim, updates - trim


def median_trim(updates: int) -> int:
    """The trim that leaves the middle value, or both: the largest that leaves any."""
    return max(updates - 1, 0) // 2


def breakdown_of_median(updates: int) -> int:
    """The largest f of n for which every coordinate stays between two honest values: f < n / 2.

    Args:
        updates: n, 1 or more.

    Assumes: honest updates resemble each other in each coordinate. The distance from their mean grows with
        f / n and, over all coordinates together, with the square root of d.
    Source: Yin et al. 2018, ICML, arXiv:1803.01498, Definition 1 and Theorem 1.
    """
    return (updates - 1) // 2


def breakdown_of_trimmed_mean(updates: int) -> int:
    """The largest f of n with the largest trim, n > 2 f. Another trim bears f = trim and no more.

    Args:
        updates: n, 1 or more.

    Assumes: as the median; and that f is known, since the trim is to be at least f.
    Source: Yin et al. 2018, ICML, arXiv:1803.01498, Definition 2 and Theorem 4.
    """
    return (updates - 1) // 2
