"""Compositions of mechanisms as data, run-length encoded."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from shared.core.privacy.mechanisms.gaussian import Mechanism


def composed(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """Run-length form: mechanisms that differ in `steps` alone are one entry. Order of release is irrelevant.

    Returns: in a fixed order, none with 0 steps.
    Raises: ValueError for negative steps, or for units that cannot be added.
    """
    steps: Counter[Mechanism] = Counter()
    for mechanism in mechanisms:
        if mechanism.steps < 0:
            raise ValueError(f"a mechanism cannot run {mechanism.steps} times")
        steps[replace(mechanism, steps=0)] += mechanism.steps
    if len(units := {of_one.unit for of_one in steps}) > 1:
        raise ValueError(
            f"one composition holds mechanisms of the units {' and '.join(sorted(units))}: "
            "account for each unit on its own"
        )
    return tuple(replace(of_one, steps=count) for of_one, count in sorted(steps.items(), key=_rank) if count)


def without(mechanisms: Sequence[Mechanism], removed: Mechanism) -> tuple[Mechanism, ...]:
    """The composition less `removed`. Raises: ValueError when it is not contained."""
    kept = []
    left = removed.steps
    for mechanism in composed(mechanisms):
        same = replace(mechanism, steps=removed.steps) == removed
        kept.append(replace(mechanism, steps=mechanism.steps - left) if same else mechanism)
        left = 0 if same else left
    if left or any(mechanism.steps < 0 for mechanism in kept):
        raise ValueError("more would be taken away than was composed")
    return composed(kept)


def _rank(entry: tuple[Mechanism, int]) -> tuple[object, ...]:
    mechanism, _ = entry
    return type(mechanism).__name__, *(getattr(mechanism, of.name) for of in fields(mechanism))
