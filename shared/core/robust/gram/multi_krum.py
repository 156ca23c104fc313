"""Multi-Krum: the mean of the n - f updates with the lowest Krum scores."""

from shared.core.robust.gram.krum import krum_scores, largest_f, weigh_equally
from shared.core.robust.gram.rule import Matrix, Weighing, smallest

ASSUMES = (
    "honest updates lie closer to each other than hostile ones lie to them; exactly f clients are left out"
)

__all__ = ["ASSUMES", "kappa", "largest_f", "multi_krum"]


def multi_krum(gram: Matrix, f: int) -> Weighing:
    """Leave out the f clients with the highest scores; a tie keeps the lower index.

    Source: Blanchard et al. 2017, NeurIPS ("Multi-Krum", with m = n - f), with the scores of `krum`.
    """
    scores = krum_scores(gram, f)
    return weigh_equally(smallest(scores, len(gram) - f), scores)


def kappa(n: int, f: int) -> float:
    """2f / (n - f) (1 + 2 (n + f) / (n - 2f)).

    Derived here. Let S be n - f rows with mean mu and mean squared deviation v, M the chosen rows, and b <=
    f the rows of M outside S, each paired with one of S outside M. An M row's score is at most its
    partner's. For i in M, at least n - 2f of its neighbours are in S: its summed squares are at least
    (n - 2f) / 2 ||x_i - mu||^2 - (n - f) v. Those of j in S are at most (n - f)(||x_j - mu||^2 + v). So
    sum_i ||x_i - mu||^2 <= 2 (n - f) / (n - 2f) ((n - f) + 2b) v, and the squared distance of both means is
    at most 2b / (n - f)^2 sum (||x_i - mu||^2 + ||x_j - mu||^2) over the pairs, with sum_j <= (n - f) v.
    """
    return 2 * f / (n - f) * (1 + 2 * (n + f) / (n - 2 * f))
