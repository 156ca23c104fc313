"""How often, and how soon, a message is delivered again; the same on every bus."""

DELIVERY_LIMIT = 20
FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 16.0


def longest_delay_s(attempt: int) -> float:
    """The longest wait after `attempt` (from 1) failed: doubling, up to LONGEST_RETRY_S."""
    return float(min(FIRST_RETRY_S * 2.0 ** (min(attempt, DELIVERY_LIMIT) - 1), LONGEST_RETRY_S))


def delay_s(attempt: int, fraction: float) -> float:
    """A wait between half of `longest_delay_s` and all of it; `fraction` in [0, 1) is the jitter."""
    return longest_delay_s(attempt) * (0.5 + fraction / 2)
