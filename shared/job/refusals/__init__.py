"""Settings that cannot work together, each with its reason and the nearest setting that does."""

from shared.job.refusals.every import refusals

__all__ = ["refusals"]
