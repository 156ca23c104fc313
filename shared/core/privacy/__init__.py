"""Differential-privacy accounting: mechanisms as data, accountants, planning, the ledger's arithmetic."""

from shared.core.privacy.accountants import ACCOUNTANTS, epsilon, epsilons
from shared.core.privacy.filters import RenyiFilter
from shared.core.privacy.mechanisms import (
    AdaptiveClipping,
    DiscreteGaussian,
    EvaluationQueries,
    Mechanism,
    Pure,
    Skellam,
    composed,
)
from shared.core.privacy.planning import (
    NoiseNotFound,
    epsilon_curve,
    least_noise,
    noise_multiplier_for,
    rounds_left,
)

__all__ = [
    "ACCOUNTANTS",
    "AdaptiveClipping",
    "DiscreteGaussian",
    "EvaluationQueries",
    "Mechanism",
    "NoiseNotFound",
    "Pure",
    "RenyiFilter",
    "Skellam",
    "composed",
    "epsilon",
    "epsilon_curve",
    "epsilons",
    "least_noise",
    "noise_multiplier_for",
    "rounds_left",
]
