"""FedEx-LoRA: FedIT, and what its product of means misses goes into W."""

from collections.abc import Sequence

from shared.core.lora.methods.averaging import averaged
from shared.core.lora.methods.method import Combined, Exact, Factor, Factors, Method, Ranks, Upload, always
from shared.core.lora.methods.products import product, stacked


def combine(before: Factors, uploads: Sequence[Upload]) -> Combined:
    """Mean B, mean A, and W += mean(B_k A_k) - mean(B_k) mean(A_k): m n values a layer are sent down."""
    factors = averaged(before, uploads).factors
    left, right = stacked(before, uploads)
    return Combined(factors, (left @ right - product(factors)).astype("float32"))


METHOD = Method(
    source="Singhal et al. 2024, arXiv:2410.09432",
    trained=always(Factor.A, Factor.B),
    combine=combine,
    exact=Exact.YES,
    ranks=Ranks.EQUAL,
    one_by_one="multiplies each client's factors",
    changes_base=True,
)
