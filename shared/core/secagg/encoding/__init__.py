"""From a client's float update to the small integers that secure protocols sum, and back."""

from shared.core.secagg.encoding.bounds import Adam, Sgd, coordinate_bound, rotated_bound
from shared.core.secagg.encoding.codec import Encoded, Noise, decode_sum, encode
from shared.core.secagg.encoding.cohorts import check_cohort, largest_cohort, share_sigma
from shared.core.secagg.encoding.divided import SMALLEST_SHARE, DividedNoise, rounded_sensitivity
from shared.core.secagg.encoding.parameters import Encoding, predicted_error

__all__ = [
    "SMALLEST_SHARE",
    "Adam",
    "DividedNoise",
    "Encoded",
    "Encoding",
    "Noise",
    "Sgd",
    "check_cohort",
    "coordinate_bound",
    "decode_sum",
    "encode",
    "largest_cohort",
    "predicted_error",
    "rotated_bound",
    "rounded_sensitivity",
    "share_sigma",
]
