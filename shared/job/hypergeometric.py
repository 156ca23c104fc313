"""How many malicious clients a random group or committee gets."""

from math import comb

SECURITY_BITS = 40


def tail(population: int, marked: int, draws: int, least: int) -> float:
    """P[at least `least` of `draws` without replacement are marked], `draws` at most `population`."""
    ways = sum(
        comb(marked, hits) * comb(population - marked, draws - hits)
        for hits in range(max(least, 0), min(marked, draws) + 1)
    )
    return ways / comb(population, draws)


def most_marked(population: int, draws: int, allowed: int, times: int = 1) -> int:
    """The largest number of marked ones of which more than `allowed` are drawn with a chance below 2^-40.

    Args:
        population: n, of which any may be marked.
        draws: in one sample, at most n.
        allowed: in one sample.
        times: samples; by the union bound.
    """
    if draws == population:
        return min(allowed, population)
    low, high = min(allowed, population), population
    while low < high:
        middle = (low + high + 1) // 2
        if times * tail(population, middle, draws, allowed + 1) <= 2.0**-SECURITY_BITS:
            low = middle
        else:
            high = middle - 1
    return low
