"""FLoRA: the mean of the clients' products goes into W, and the factors begin again."""

from collections.abc import Sequence

from shared.core.lora.methods.method import Combined, Exact, Factor, Factors, Method, Ranks, Upload, always
from shared.core.lora.methods.products import stacked
from shared.errors import Rejected


def combine(before: Factors, uploads: Sequence[Upload]) -> Combined:
    """W += sum(w_k B_k A_k) / sum(w_k); the factors are those that the round began with.

    What clients are sent is not the product but `products.stacked`: sum(r_k) (m + n) values.

    Raises: Rejected when B was not zero: it would go into W once more.
    """
    if before[Factor.B].any():
        raise Rejected("FLoRA's B is zero when a round begins")
    left, right = stacked(before, uploads)
    return Combined(before, (left @ right).astype("float32"))


METHOD = Method(
    source="Wang et al. 2024, arXiv:2409.05976",
    trained=always(Factor.A, Factor.B),
    combine=combine,
    exact=Exact.YES,
    ranks=Ranks.ANY,
    one_by_one="multiplies each client's factors",
    changes_base=True,
)
