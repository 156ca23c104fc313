"""What all parties of a round agree on before a client's floats become integers."""

import math
import struct
from dataclasses import dataclass

from shared.core.secagg.encoding import rotation
from shared.core.secagg.encoding.rounding import largest_rounded_squares
from shared.errors import Refused

FEWEST_BITS, MOST_BITS = 8, 16
NOISE_REACH = 14.0  # standard deviations of a noise share that the range leaves room for
SMALLEST_BOUND, LARGEST_BOUND = 1e-30, 1e30  # float32 holds a bound and its inverse
ROUNDING_VARIANCE = 1 / 6  # of x - round(x), in squared steps, where x mod 1 is uniform


@dataclass(frozen=True)
class Encoding:
    """How one round's updates become integers of -largest, ..., largest; public, one for all clients.

    Attributes:
        dimension: d, coordinates of an update.
        bits: of an integer, its sign included, 8 to 16.
        bound: on each coordinate of the weighted, rotated update, in the update's units; beyond is clipped.
        rotation_seed: of the round, public; None rotates nothing.
        norm_bound: L2, on the weighted update, in its units. A longer update is scaled down to it, and
            rounding is repeated until `largest_squares` holds. None bounds coordinates alone.
        noise_sigma: of the integer noise that each client adds, in the update's units. The range leaves room
            for `NOISE_REACH` of them beyond `bound`.

    Raises: Refused for a field outside its range.
    """

    dimension: int
    bits: int
    bound: float
    rotation_seed: bytes | None = None
    norm_bound: float | None = None
    noise_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise Refused("dimension", "an update without values", "give at least 1")
        if not FEWEST_BITS <= self.bits <= MOST_BITS:
            nearest = FEWEST_BITS if self.bits < FEWEST_BITS else MOST_BITS
            raise Refused("aggregation.bits", f"{self.bits} bits for a value", f"set it to {nearest}")
        for name, value in (("bound", self.bound), ("norm_bound", self.norm_bound)):
            if value is not None and not SMALLEST_BOUND <= value <= LARGEST_BOUND:
                raise Refused(
                    f"aggregation.{name}",
                    f"a bound of {value:g}",
                    f"give {SMALLEST_BOUND:g} to {LARGEST_BOUND:g}",
                )
        if not 0 <= self.noise_sigma <= LARGEST_BOUND:
            raise Refused("aggregation.noise_sigma", f"sigma is {self.noise_sigma:g}", "give 0 or more")
        if self.rotation_seed == b"":
            raise Refused("aggregation.rotation_seed", "an empty seed", "give the round's, or none")

    @property
    def length(self) -> int:
        """d', integers in an encoded update: d, padded to whole blocks where there is a rotation."""
        return self.dimension if self.rotation_seed is None else rotation.padded(self.dimension)

    @property
    def largest(self) -> int:
        """The largest integer, 2^(bits - 1) - 1."""
        return largest_value(self.bits)

    @property
    def step(self) -> float:
        """What one integer step stands for, in the update's units."""
        return (self.bound + NOISE_REACH * self.noise_sigma) / self.largest

    @property
    def noise_steps(self) -> float:
        """`noise_sigma` in integer steps: what a client's sampler is given."""
        return self.noise_sigma / self.step

    @property
    def largest_squares(self) -> int | None:
        """What the squares of one client's values add up to at most, before noise, in squared steps; its root
        is the L2 sensitivity of the sum to one client. None without `norm_bound`."""
        if self.norm_bound is None:
            return None
        return largest_rounded_squares(self.norm_bound / self.step, self.length)

    def to_fields(self) -> tuple[bytes, ...]:
        """Every field as bytes, to be bound into a digest of the round's terms."""
        return (
            self.dimension.to_bytes(8, "big"),
            self.bits.to_bytes(1, "big"),
            struct.pack(">d", self.bound),
            self.rotation_seed or b"",
            b"" if self.norm_bound is None else struct.pack(">d", self.norm_bound),
            struct.pack(">d", self.noise_sigma),
        )


def largest_value(bits: int) -> int:
    """The largest integer of so many bits, its sign included: 2^(bits - 1) - 1."""
    return (1 << (bits - 1)) - 1


def predicted_error(encoding: Encoding, clients: int) -> float:
    """Standard deviation of one coordinate of the decoded sum over `clients`, in the update's units.

    step sqrt(n (1/6 + sigma^2)), sigma the noise share in steps. Rounding x up with probability x mod 1 has
    the variance f (1 - f), f = x mod 1: 1/6 on average where updates spread over more than a step, 1/4 at
    most, less where they do not reach one. Clipping is an error of its own, and is reported by each client.
    """
    return encoding.step * math.sqrt(clients * (ROUNDING_VARIANCE + encoding.noise_steps**2))
