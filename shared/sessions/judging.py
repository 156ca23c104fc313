"""What a rule said of rows, as events carry it."""

from collections.abc import Iterator, Mapping

from shared.core.robust.judging.verdict import Reason
from shared.events.judgements import Finding, LeftOut


def findings_of(weights: Mapping[str, float], reasons: Mapping[str, Reason]) -> tuple[Finding, ...]:
    """One for each row with a reason, by name.

    Args:
        weights: of all rows, by name of a client or group.
        reasons: of those that count less than their share.
    """
    return tuple(
        Finding(
            subject=name, figure=reason.figure, value=reason.value, limit=reason.limit, weight=weights[name]
        )
        for name, reason in sorted(reasons.items())
    )


def left_out_by_rule(
    rule: str, weights: Mapping[str, float], findings: tuple[Finding, ...]
) -> Iterator[LeftOut]:
    """The rows without weight, each with what the rule found."""
    found = {finding.subject: finding for finding in findings}
    for name, weight in sorted(weights.items()):
        if weight == 0:
            reason = found[name].sentence if name in found else "it has no weight"
            yield LeftOut(client_id=name, reason=f"left out by {rule}: {reason}")
