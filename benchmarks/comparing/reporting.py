"""The JSON lines of `benchmarks/learning.py` as markdown: means over seeds, and differences within a seed."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from comparing.cells import CENTRAL, DIVIDED, LOCAL, NESTED, ONE_BY_ONE, SECURE, Cell

METRICS = ("accuracy", "perplexity")
WITHIN = 0.02  # of central: of the accuracy in points, of a perplexity in parts
BASELINE = "ffa"
SEEDS = 5
EPSILONS = (8.0, 3.0, 1.0, None)
Figures = Mapping[int, float]


def read(file: Path) -> list[tuple[Cell, float]]:
    """Each cell with its figure, in the order of the file; nothing where there is no file."""
    if not file.exists():
        return []
    names, found = [one.name for one in fields(Cell)], []
    for line in file.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        metric = next(value[name] for name in METRICS if name in value)
        found.append((Cell(**{name: value[name] for name in names}), metric))
    return found


class Found:
    """Figures of one data set by seed."""

    def __init__(self, lines: Iterable[tuple[Cell, float]], data: str) -> None:
        self._of: dict[tuple, dict[int, float]] = defaultdict(dict)
        for cell, figure in lines:
            if cell.data == data and cell.seed:
                self._of[cell.method, cell.epsilon, cell.noise, cell.ranks][cell.seed] = figure

    def of(self, method: str, epsilon: float | None, noise: str, ranks: str = "uniform") -> Figures:
        """By seed; empty where nothing was run."""
        return self._of.get((method, epsilon, noise, ranks), {})


def difference(ones: Figures, others: Figures) -> list[float]:
    """Of seeds that both have."""
    return [ones[seed] - others[seed] for seed in sorted(ones.keys() & others.keys())]


def shown(figures: Sequence[float], *, signed: bool = False) -> str:
    """Mean and its standard error."""
    if not figures:
        return ""
    mean = statistics.mean(figures)
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    if len(figures) == 1:
        return f"{text} (1 seed)"
    few = f" ({len(figures)} seeds)" if len(figures) < SEEDS else ""
    return f"{text} ± {statistics.stdev(figures) / math.sqrt(len(figures)):.1f}{few}"


def row(cells: Iterable[str]) -> str:
    """Of a table."""
    return f"| {' | '.join(cells)} |"


def named(epsilon: float | None) -> str:
    """As people call it."""
    return "none" if epsilon is None else f"{epsilon:g}"


def methods(found: Found) -> list[str]:
    """Every method, and where the noise is added."""
    lines = [row(("method", "noise", *(f"epsilon {named(e)}" for e in EPSILONS))), row(["---"] * 6)]
    for noise in (CENTRAL, DIVIDED, LOCAL):
        for method in (*SECURE, *ONE_BY_ONE):
            each = [list(found.of(method, epsilon, noise).values()) for epsilon in EPSILONS]
            if any(each):
                lines.append(row((f"`{method}`", noise, *(shown(figures) for figures in each))))
    return lines


def against(found: Found) -> list[str]:
    """Every method minus `ffa`, at the same noise, budget and seed."""
    lines = [row(("minus `ffa`", "noise", *(f"epsilon {named(e)}" for e in EPSILONS))), row(["---"] * 6)]
    for noise in (CENTRAL, DIVIDED, LOCAL):
        for method in (*SECURE, *ONE_BY_ONE):
            each = [difference(found.of(method, e, noise), found.of(BASELINE, e, noise)) for e in EPSILONS]
            if method != BASELINE and any(each):
                lines.append(row((f"`{method}`", noise, *(shown(pairs, signed=True) for pairs in each))))
    return lines


def noises(found: Found, accuracy: bool) -> list[str]:
    """Divided minus local, and minus central, with whether that is within 2 %."""
    lines = [row(("difference", "method", *(f"epsilon {named(e)}" for e in EPSILONS))), row(["---"] * 6)]
    for other in (LOCAL, CENTRAL):
        for method in SECURE:
            each = [difference(found.of(method, e, DIVIDED), found.of(method, e, other)) for e in EPSILONS]
            if any(each):
                shares = (shown(pairs, signed=True) for pairs in each)
                lines.append(row((f"divided minus {other}", f"`{method}`", *shares)))
    for method in SECURE:
        verdicts = [_within(found, method, epsilon, accuracy) for epsilon in EPSILONS]
        if any(verdicts):
            lines.append(row(("divided within 2 % of central", f"`{method}`", *verdicts)))
    return lines


def _within(found: Found, method: str, epsilon: float | None, accuracy: bool) -> str:
    """Whether the mean of the seeds' differences is, and on how many seeds each is."""
    ours, central = found.of(method, epsilon, DIVIDED), found.of(method, epsilon, CENTRAL)
    pairs = difference(ours, central)
    if not pairs:
        return ""
    whole = [1.0] * len(pairs) if accuracy else [central[s] for s in sorted(ours.keys() & central.keys())]
    worse = [(-pair / 100 if accuracy else pair / of) for pair, of in zip(pairs, whole, strict=True)]
    verdict = "yes" if statistics.mean(worse) <= WITHIN else "no"
    return f"{verdict} ({sum(one <= WITHIN for one in worse)} of {len(worse)} seeds)"


def ranks(found: Found) -> list[str]:
    """Mixed ranks minus one rank for all."""
    lines = [
        row(("mixed minus uniform", "noise", *(f"epsilon {named(e)}" for e in EPSILONS))),
        row(["---"] * 6),
    ]
    for noise in (DIVIDED, LOCAL):
        for method in NESTED:
            each = [
                difference(found.of(method, e, noise, "mixed"), found.of(method, e, noise)) for e in EPSILONS
            ]
            if any(each):
                lines.append(row((f"`{method}`", noise, *(shown(pairs, signed=True) for pairs in each))))
    return lines


def markdown(file: Path) -> str:
    """All tables of a file; accuracies in per cent."""
    lines, parts = read(file), []
    for data in dict.fromkeys(cell.data for cell, _ in lines):
        accuracy = data == "bbc"
        factor = 100.0 if accuracy else 1.0
        found = Found(((cell, factor * figure) for cell, figure in lines), data)
        counts = {
            s: sum(c.data == data and c.seed == s for c, _ in lines)
            for s in sorted({c.seed for c, _ in lines})
        }
        parts.append(f"{data}, {'accuracy in per cent' if accuracy else 'perplexity'}; runs by seed {counts}")
        parts += [
            "\n".join(part)
            for part in (methods(found), against(found), noises(found, accuracy), ranks(found))
        ]
    return "\n\n".join(parts)
