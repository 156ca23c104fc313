"""FFA-LoRA: A is frozen and orthonormal, B is trained and averaged."""

from shared.core.lora.methods.averaging import averaged
from shared.core.lora.methods.method import Exact, Factor, Method, Ranks, always

# Exact since A is one matrix: mean(B_k) A = mean(B_k A). FedSVD under SGD is this with an orthonormal A.
METHOD = Method(
    source="Sun et al. 2024, arXiv:2403.12313",
    trained=always(Factor.B),
    combine=averaged,
    exact=Exact.YES,
    ranks=Ranks.NESTED,
)
