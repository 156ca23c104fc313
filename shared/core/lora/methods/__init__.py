"""LoRA methods: which factors a round trains, and how the clients' changes become one adapter."""

from shared.core.lora.methods.method import (
    Combined,
    Exact,
    Factor,
    Factors,
    Method,
    Ranks,
    Upload,
    refuse_under_secure_sums,
)
from shared.core.lora.methods.table import METHODS

__all__ = [
    "METHODS",
    "Combined",
    "Exact",
    "Factor",
    "Factors",
    "Method",
    "Ranks",
    "Upload",
    "refuse_under_secure_sums",
]
