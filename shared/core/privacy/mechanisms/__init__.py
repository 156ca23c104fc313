"""What ran, as data: epsilon is always derived from these. One file a kind."""

from shared.core.privacy.mechanisms.adaptive_clipping import AdaptiveClipping
from shared.core.privacy.mechanisms.composition import composed, without
from shared.core.privacy.mechanisms.evaluation import EvaluationQueries
from shared.core.privacy.mechanisms.gaussian import Mechanism, Unit
from shared.core.privacy.mechanisms.integer_noise import DiscreteGaussian, Skellam
from shared.core.privacy.mechanisms.pure import Pure

GAUSSIAN_KINDS = (
    Mechanism,
    AdaptiveClipping,
    EvaluationQueries,
)  # q and noise multiplier are all they cost

__all__ = [
    "GAUSSIAN_KINDS",
    "AdaptiveClipping",
    "DiscreteGaussian",
    "EvaluationQueries",
    "Mechanism",
    "Pure",
    "Skellam",
    "Unit",
    "composed",
    "without",
]
