"""What comes before a rule: rows of means of updates, on which the rule runs in their place."""

from dataclasses import dataclass, replace

import numpy as np

from shared.core.robust.gram.rule import Matrix, Rule, Weighing


@dataclass(frozen=True)
class Mixing:
    """m rows, each a mean of updates.

    Attributes:
        matrix: (m, n); row j is sum_i matrix_ji x_i, with rows that sum to 1.
        stands_for: for each row, the clients that a finding about it is about.
    """

    matrix: Matrix
    stands_for: tuple[tuple[int, ...], ...]

    def gram(self, gram: Matrix) -> Matrix:
        """(m, m): the Gram matrix of the rows."""
        mixed = self.matrix @ gram @ self.matrix.T
        mixed = (mixed + mixed.T) / 2
        # A row whose updates cancel has a squared norm of 0, or what rounding makes of it.
        np.fill_diagonal(mixed, np.maximum(np.diagonal(mixed), 0))
        return np.asarray(mixed)

    def unmix(self, weighing: Weighing) -> Weighing:
        """Weights of the n clients that give what those of the m rows give."""
        findings = (
            replace(finding, client=client)
            for finding in weighing.findings
            for client in self.stands_for[finding.client]
        )
        return Weighing(
            np.asarray(self.matrix.T @ weighing.weights),
            tuple(sorted(findings, key=lambda finding: finding.client)),
        )


def weigh_mixed(rule: Rule, mixing: Mixing, gram: Matrix, f: int) -> Weighing:
    """Run a rule on mixtures, of which f may be hostile; weights are those of clients.

    Raises: Refused when the rule does not bear f of m rows; Rejected when `gram` is no Gram matrix.
    """
    return mixing.unmix(rule(mixing.gram(gram), f))
