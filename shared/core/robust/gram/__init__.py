"""Rules that depend on updates through their inner products alone: weights from the Gram matrix.

They run the same on updates in the clear, on sums of groups, and where only the Gram matrix is opened. A new
rule is one module and one line here. `bucketing` and `nearest_neighbour_mixing` come before a rule;
`fltrust` also needs products with the server's own update.
"""

from collections.abc import Mapping

from shared.core.robust.gram import (
    centred_clipping,
    cosine_clustering,
    foolsgold,
    geometric_median,
    krum,
    mean,
    multi_krum,
    norm_clipped_mean,
)
from shared.core.robust.gram.bucketing import bucketing
from shared.core.robust.gram.fltrust import Root, fltrust
from shared.core.robust.gram.mixing import Mixing, weigh_mixed
from shared.core.robust.gram.nearest_neighbour_mixing import nearest_neighbour_mixing
from shared.core.robust.gram.rule import Finding, Matrix, Rule, Weighing, minority

RULES: Mapping[str, Rule] = {
    "mean": Rule(mean.mean, mean.largest_f, mean.ASSUMES, mean.kappa),
    "krum": Rule(krum.krum, krum.largest_f, krum.ASSUMES, krum.kappa),
    "multi-krum": Rule(multi_krum.multi_krum, multi_krum.largest_f, multi_krum.ASSUMES, multi_krum.kappa),
    "norm-clipped-mean": Rule(
        norm_clipped_mean.norm_clipped_mean, minority, norm_clipped_mean.ASSUMES, sums_to_one=False
    ),
    "centred-clipping": Rule(centred_clipping.centred_clipping, minority, centred_clipping.ASSUMES),
    "geometric-median": Rule(
        geometric_median.geometric_median, minority, geometric_median.ASSUMES, geometric_median.kappa
    ),
    "cosine-clustering": Rule(
        cosine_clustering.cosine_clustering, minority, cosine_clustering.ASSUMES, sums_to_one=False
    ),
    "foolsgold": Rule(foolsgold.foolsgold, foolsgold.largest_f, foolsgold.ASSUMES, warning=foolsgold.WARNING),
}

__all__ = [
    "RULES",
    "Finding",
    "Matrix",
    "Mixing",
    "Root",
    "Rule",
    "Weighing",
    "bucketing",
    "fltrust",
    "nearest_neighbour_mixing",
    "weigh_mixed",
]
