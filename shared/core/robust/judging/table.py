"""Every rule that a job may name: built in, or installed under the entry point `fedlora.rules`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points

from shared.core.robust import gram
from shared.core.robust.gram.fltrust import ASSUMES as FLTRUST_ASSUMES
from shared.core.robust.gram.fltrust import largest_f as fltrust_largest_f
from shared.core.robust.gram.rule import FIELD, Rule
from shared.core.robust.streaming import ranks
from shared.errors import Refused

ENTRY_POINT = "fedlora.rules"
OF_COORDINATES = "honest updates resemble each other in each coordinate"


class Needs(StrEnum):
    """What a rule has to see."""

    SUM = "sum"
    GRAM = "gram"
    ROOT = "root"  # a Gram matrix, one row of which is an update that is trusted
    COORDINATES = "coordinates"


class Mix(StrEnum):
    """What may come before a rule on a Gram matrix."""

    NONE = "none"
    NEAREST_NEIGHBOUR = "nearest-neighbour"
    BUCKETS = "buckets"


@dataclass(frozen=True)
class Kind:
    """A line of the table.

    Attributes:
        needs: what the rule has to see.
        largest_f: n -> how many of n rows may be hostile.
        assumes: what must hold besides, as a sentence for people.
        rule: on Gram matrices; None for what needs something else.
        singles_out: whether the result may be one row, as it is.
        keeps_half: whether no more than half of the rows are sure to have a weight; others keep all but f.
        warning: what a person should read before choosing the rule.
    """

    needs: Needs
    largest_f: Callable[[int], int]
    assumes: str
    rule: Rule | None = None
    singles_out: bool = False
    keeps_half: bool = False
    warning: str | None = None


def _on_gram(rule: Rule, needs: Needs = Needs.GRAM, **known: bool) -> Kind:
    return Kind(needs, rule.largest_f, rule.assumes, rule, warning=rule.warning, **known)


BUILT_IN: Mapping[str, Kind] = {
    **{name: _on_gram(rule) for name, rule in gram.RULES.items()},
    "mean": _on_gram(gram.RULES["mean"], Needs.SUM),
    "cosine-clustering": _on_gram(gram.RULES["cosine-clustering"], keeps_half=True),
    "krum": _on_gram(gram.RULES["krum"], singles_out=True),
    "fltrust": Kind(Needs.ROOT, fltrust_largest_f, FLTRUST_ASSUMES),
    "median": Kind(Needs.COORDINATES, ranks.breakdown_of_median, OF_COORDINATES),
    "trimmed-mean": Kind(Needs.COORDINATES, ranks.breakdown_of_trimmed_mean, OF_COORDINATES),
}


@cache
def _installed() -> Mapping[str, str]:
    found = entry_points(group=ENTRY_POINT)
    return {point.name: point.value for point in found if point.name not in BUILT_IN}


def names() -> tuple[str, ...]:
    """Of every rule, sorted. A built-in rule cannot be replaced by an installed one of its name."""
    return tuple(sorted({*BUILT_IN, *_installed()}))


@cache
def kind_of(name: str) -> Kind:
    """The rule of that name.

    An installed one is loaded: its entry point names a `shared.core.robust.gram.Rule`.

    Raises: Refused for a name that nothing has, and for an entry point that is no rule.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    found = [point for point in entry_points(group=ENTRY_POINT) if point.name == name]
    if not found:
        raise Refused(FIELD, f"no rule {name!r} is installed here", f"choose one of {', '.join(names())}")
    try:
        rule = found[0].load()
    except Exception as error:  # whatever a stranger's module raises
        raise Refused(FIELD, f"{found[0].value} cannot be loaded: {error}", "mend that package") from error
    if not isinstance(rule, Rule):
        raise Refused(FIELD, f"{found[0].value} is a {type(rule).__name__}, no Rule", "make it a Rule")
    return _on_gram(rule, singles_out=True)
