"""Compositions of mechanisms as data, run-length encoded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any

from shared.core.privacy.mechanisms.gaussian import Mechanism


def composed(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """Run-length form: mechanisms that differ in `steps` alone are one entry. Order of release is irrelevant.

    Returns: in a fixed order, none with 0 steps.
    Raises: ValueError for negative steps, or for units that cannot be added.
    """
    entries: dict[tuple[object, ...], tuple[Mechanism, int]] = {}
    for mechanism in mechanisms:
        if mechanism.steps < 0:
            raise ValueError(f"a mechanism cannot run {mechanism.steps} times")
        kind: Any = type(mechanism)
        same = _all_but_steps(kind)(mechanism)
        first, steps = entries.get(same, (mechanism, 0))
        entries[same] = first, steps + mechanism.steps
    if len(entries) > 1 and len(units := {first.unit for first, _ in entries.values()}) > 1:
        raise ValueError(
            f"one composition holds mechanisms of the units {' and '.join(sorted(units))}: "
            "account for each unit on its own"
        )
    return tuple(_running(*entry) for _, entry in sorted(entries.items(), key=itemgetter(0)) if entry[1])


def without(mechanisms: Sequence[Mechanism], removed: Mechanism) -> tuple[Mechanism, ...]:
    """The composition less `removed`. Raises: ValueError when it is not contained."""
    kept = []
    left = removed.steps
    for mechanism in composed(mechanisms):
        same = _running(mechanism, removed.steps) == removed
        kept.append(replace(mechanism, steps=mechanism.steps - left) if same else mechanism)
        left = 0 if same else left
    if left or any(mechanism.steps < 0 for mechanism in kept):
        raise ValueError("more would be taken away than was composed")
    return composed(kept)


def _running(mechanism: Mechanism, steps: int) -> Mechanism:
    return mechanism if mechanism.steps == steps else replace(mechanism, steps=steps)


@cache
def _all_but_steps(kind: type[Mechanism]) -> Callable[[Mechanism], tuple[Any, ...]]:
    return attrgetter("__class__.__name__", *(of.name for of in fields(kind) if of.name != "steps"))
