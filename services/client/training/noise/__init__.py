"""Additive noise from a cryptographic source: one mechanism a file, behind one interface."""

from services.client.training.noise.discrete_gaussian import DiscreteGaussian
from services.client.training.noise.gaussian import Gaussian, noised
from services.client.training.noise.key_stream import KeyStream
from services.client.training.noise.mechanism import NoiseMechanism
from services.client.training.noise.skellam import Skellam

__all__ = ["DiscreteGaussian", "Gaussian", "KeyStream", "NoiseMechanism", "Skellam", "noised"]
