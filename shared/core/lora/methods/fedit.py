"""FedIT: both factors are trained, each is averaged."""

from shared.core.lora.methods.averaging import averaged
from shared.core.lora.methods.method import Exact, Factor, Method, Ranks, always

# mean(B_k A_k) - mean(B_k) mean(A_k) = Cov_k(B, A). With one SGD step a round the means are SGD's step on
# the pooled data, on (A, B), though the products still differ by eta^2 Cov_k of the gradients.
METHOD = Method(
    source="Zhang et al. 2023, arXiv:2305.05644",
    trained=always(Factor.A, Factor.B),
    combine=averaged,
    exact=Exact.NO,
    ranks=Ranks.EQUAL,
)
