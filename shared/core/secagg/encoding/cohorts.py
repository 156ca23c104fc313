"""How many clients' integers a protocol's ring holds, and how their noise is divided among them."""

import math
from collections.abc import Callable

from shared.core.secagg.encoding.parameters import FEWEST_BITS
from shared.core.secagg.oneshot import encoding as oneshot
from shared.errors import Refused

EXACT = 2**54  # sums are read as float64, which holds every integer of up to 53 bits


def largest_cohort(bits: int, modulus: int) -> int:
    """The largest n with n (2^(bits - 1) - 1) <= (modulus - 1) / 2 and < 2^53: sums neither wrap nor round.

    Values count with their noise, which stays within the same range.
    """
    return ((min(modulus, EXACT) - 1) // 2) // ((1 << (bits - 1)) - 1)


# oneshot multiplies 16-bit values, however few bits are used, and its errors need room too.
PROTOCOLS: dict[str, Callable[[int], int]] = {
    "none": lambda bits: largest_cohort(bits, 2**64),
    "oneshot": lambda bits: oneshot.largest_cohort(oneshot.SMALLEST_SCALE),
    "secagg": lambda bits: largest_cohort(bits, 2**32),
    "mpc3": lambda bits: largest_cohort(bits, 2**64),
}


def check_cohort(protocol: str, clients: int, bits: int) -> None:
    """Raises: Refused when a sum of `clients` values of `bits` bits can overflow in `protocol`."""
    most = PROTOCOLS[protocol]
    if clients <= most(bits):
        return
    reason = f"a sum of {clients} values of {bits} bits can overflow in {protocol}"
    fitting = [fewer for fewer in range(bits - 1, FEWEST_BITS - 1, -1) if clients <= most(fewer)]
    if fitting:
        raise Refused("aggregation.bits", reason, f"set it to {fitting[0]}")
    raise Refused("aggregation.protocol", reason, f"cut the cohort into groups of at most {most(bits)}")


def share_sigma(total_sigma: float, honest_survivors: int) -> float:
    """The standard deviation of each client's noise, so that honest survivors alone add up to `total_sigma`.

    Args:
        total_sigma: of the sum's noise, in any unit.
        honest_survivors: at the least, (1 - byzantine - dropout) n: who lies or is lost adds nothing.

    Returns: total_sigma / sqrt(honest_survivors), in that unit. Sums of Skellams are Skellam; those of
        discrete Gaussians are only close to one (Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Section 4).
    Raises: Refused for fewer than one survivor.
    """
    if honest_survivors < 1:
        raise Refused(
            "aggregation.noise",
            f"{honest_survivors} honest survivors to divide noise over",
            "plan for at least 1",
        )
    return total_sigma / math.sqrt(honest_survivors)
