"""Additive noise from a cryptographic source: one mechanism a file, behind one interface."""

from shared.core.noise.discrete_gaussian import DiscreteGaussian
from shared.core.noise.discrete_laplace import DiscreteLaplace
from shared.core.noise.gaussian import Gaussian, noised
from shared.core.noise.key_stream import KeyStream
from shared.core.noise.mechanism import NoiseMechanism
from shared.core.noise.skellam import Skellam

__all__ = [
    "DiscreteGaussian",
    "DiscreteLaplace",
    "Gaussian",
    "KeyStream",
    "NoiseMechanism",
    "Skellam",
    "noised",
]
