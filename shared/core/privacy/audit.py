"""What an audit saw, against a claimed epsilon: canaries that were guessed right, the noise's variance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, chdtrc, gammaln, log_expit

# Of all canaries, the shares guessed to be in and to be out. Each pair is tried at its part of the error
# allowed; where sampling hides many that are in, only those that surely are tell much.
GUESSED_SHARES = ((0.5, 0.5), (0.25, 0.25), (0.1, 0.1), (0.025, 0.025), (0.25, 0.0), (0.05, 0.0))
PRECISION = 1e-4  # of a bound on epsilon
MOST_EPSILON = 64.0


@dataclass(frozen=True)
class Guesses:
    """An auditor's answers to which canaries were in the data, each with probability 1/2 by itself.

    Attributes:
        canaries: m, included or not.
        made: r <= m, guesses; the auditor abstains from the others.
        correct: v <= r.

    Raises: ValueError when there are more correct guesses than guesses, or more guesses than canaries.
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries:
            raise ValueError(f"{self.correct} of {self.made} guesses on {self.canaries} canaries")


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Bound on the chance of as many correct guesses, or more, were the mechanism (epsilon, delta)-private.

    P[X >= v] + 2 m delta max_i P[v - i <= X < v] / i with X ~ Binomial(r, 1 / (1 + exp(-epsilon))), for
    adding or removing one record. Whatever the auditor saw or knew besides may have led to its guesses.

    Source: Steinke, Nasr, Jagielski 2023, arXiv:2305.08846, Theorem 5.2 as in Appendix D.
    """
    made, correct = guesses.made, guesses.correct
    right = np.arange(made + 1.0)
    ways = gammaln(made + 1) - gammaln(right + 1) - gammaln(made - right + 1)
    mass = np.exp(ways + right * log_expit(epsilon) + (made - right) * log_expit(-epsilon))
    fewer = np.cumsum(mass[:correct][::-1]) / np.arange(1, correct + 1)
    correction = 2 * guesses.canaries * delta * float(fewer.max(initial=0.0))
    return min(float(mass[correct:].sum()) + correction, 1.0)


def epsilon_lower_bound(guesses: Guesses, delta: float, confidence: float) -> float:
    """The largest epsilon, within 1e-4 below, at which these guesses refute (epsilon, delta)-privacy.

    Args:
        guesses: of one training run.
        delta: of the claim, in [0, 1).
        confidence: in (0, 1); a sound mechanism's epsilon is passed with at most the rest of 1.

    Returns: epsilon >= 0; 0 when nothing is refuted. What is refuted at one epsilon is at every smaller one.
    Source: as `p_value`, Appendix D.
    """

    def refuted(epsilon: float) -> bool:
        return p_value(guesses, epsilon, delta) < 1 - confidence

    low, high = 0.0, 1.0
    while refuted(high) and high < MOST_EPSILON:
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def guess(
    scores: NDArray[np.float64], included: NDArray[np.bool_], share_in: float, share_out: float
) -> Guesses:
    """Guess that the highest scores were in the data, and that the lowest were not.

    Args:
        scores: (m,), higher for canaries that seem to be in.
        included: (m,), the truth.
        share_in: of the canaries, guessed in; in [0, 1].
        share_out: of the canaries, guessed out; the two add up to at most 1.
    """
    count = len(scores)
    order = np.argsort(scores, kind="stable")
    into, out = order[count - int(share_in * count) :], order[: int(share_out * count)]
    correct = int(included[into].sum()) + int((~included[out]).sum())
    return Guesses(count, len(into) + len(out), correct)


def audited_epsilon(
    scores: NDArray[np.float64], included: NDArray[np.bool_], delta: float, confidence: float
) -> tuple[float, Guesses]:
    """The best lower bound over how many canaries are guessed, and the guesses behind it.

    Each number of guesses gets an equal part of 1 - confidence (Bonferroni), so that all of their bounds
    hold together.
    """
    level = 1 - (1 - confidence) / len(GUESSED_SHARES)
    tried = [guess(scores, included, into, out) for into, out in GUESSED_SHARES]
    bounds = [(epsilon_lower_bound(one, delta, level), one) for one in tried]
    return max(bounds, key=lambda bound: bound[0])


def most_audited_epsilon(canaries: int, delta: float, confidence: float) -> float:
    """What `audited_epsilon` says when every guess is right: a claim above it cannot be contradicted."""
    included = np.arange(canaries) >= canaries // 2
    return audited_epsilon(np.arange(canaries, dtype=np.float64), included, delta, confidence)[0]


def membership_scores(
    shares: NDArray[np.float64], sampling_rate: float, noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log-likelihood ratios of a canary being in the data, from what each step shows of it.

    A step shows N(b, s^2) with b = 1 when the canary is in and was sampled, else 0. At q = 1 this orders
    canaries as the sum of their inner products with the releases does.

    Args:
        shares: (T, m), the releases' inner products with a canary's clipped gradient, over its squared norm.
        sampling_rate: q in (0, 1].
        noise: (T, m), s: the noise's standard deviation over the clipped gradient's norm.

    Returns: (m,), summed over T steps.
    Source: the likelihood ratio of Mironov et al. 2019, arXiv:1908.10530, Section 3.2.
    """
    with np.errstate(divide="ignore"):  # at q = 1
        unsampled = np.log1p(-sampling_rate)
    evidence = (2 * shares - 1) / (2 * noise**2)
    return np.asarray(np.logaddexp(unsampled, np.log(sampling_rate) + evidence).sum(axis=0))


def chi_squared_p_value(squares: float, degrees: int) -> float:
    """Two-sided chance of a sum of `degrees` squares of N(0, 1) as far out as `squares`."""
    return float(min(1.0, 2 * min(chdtr(degrees, squares), chdtrc(degrees, squares))))
