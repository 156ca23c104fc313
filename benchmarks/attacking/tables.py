"""The JSON lines of `benchmarks/attacks.py` as markdown."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

WITHIN = 0.02  # of the clean run of the same seed, split and privacy
MEASURED = ("accuracy", "lost", "cpu_s")
SPLITS = ("iid", "dirichlet")
MODES = (("none", 6), ("none", 9), ("grouped", 6), ("grouped", 9), ("mpc3", 6), ("mpc3", 9))
Lines = Sequence[dict]


def read(file: Path) -> list[tuple[str, dict]]:
    """Each cell's key, and its line."""
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(json.dumps({k: v for k, v in line.items() if k not in MEASURED}), line) for line in lines]


class Found:
    """All lines of a file, by what they are of."""

    def __init__(self, lines: Iterable[dict]) -> None:
        self._by_cell: dict[tuple, dict[int, dict]] = defaultdict(dict)
        for line in lines:
            cell = (line["rule"], line["attack"], line["f"], line["split"], line["private"], line["mode"])
            self._by_cell[cell][line["seed"]] = line

    def of(self, *cell: object) -> dict[int, float]:
        """Accuracy by seed; empty where the cell was refused or not run."""
        lines = self._by_cell.get(cell, {})
        return {seed: line["accuracy"] for seed, line in lines.items() if line["accuracy"] is not None}

    def lost(self, *cell: object) -> float:
        """The mean number of rounds that opened nothing."""
        return statistics.mean([line["lost"] for line in self._by_cell[cell].values()])

    def clean(self, split: str, private: bool) -> dict[int, float]:
        """Of the mean without attack."""
        return self.of("mean", "none", 0, split, private, "none")

    def behind(self, *cell: object) -> list[float]:
        """By how much each seed's accuracy is below that of its clean run."""
        _, _, _, split, private, _ = cell
        clean = self.clean(str(split), bool(private))
        return [clean[seed] - accuracy for seed, accuracy in self.of(*cell).items() if seed in clean]

    def values(self, field: str, **like: object) -> list:
        """What stands in a field, in the order of the file."""
        lines = (line for lines in self._by_cell.values() for line in lines.values())
        fitting = (line for line in lines if all(line[name] == value for name, value in like.items()))
        return list(dict.fromkeys(line[field] for line in fitting))


def percent(figures: Iterable[float], bold: bool = False) -> str:
    """The mean in per cent, and of several the range."""
    each = [100 * figure for figure in figures]
    if not each:
        return ""
    shown = f"{statistics.mean(each):.1f}"
    shown = f"**{shown}**" if bold else shown
    return shown if len(each) == 1 else f"{shown} ({min(each):.0f}-{max(each):.0f})"


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def clean_table(found: Found) -> str:
    """The runs that all others are held against."""
    lines = [row(("mean, nobody hostile", *SPLITS)), row(["---"] * 3)]
    for private in (True, False):
        figures = [percent(found.clean(split, private).values()) for split in SPLITS]
        lines.append(row(("epsilon 8" if private else "no privacy", *figures)))
    return "\n".join(lines)


def rules_table(found: Found, split: str, private: bool) -> str:
    """Every rule against every attack by 9 of 30, single updates; bold within 2 points of the clean run."""
    attacks = found.values("attack", private=private, f=9, mode="none")
    lines = [row(("rule", *attacks)), row(["---"] * (len(attacks) + 1))]
    for rule in found.values("rule", private=private, f=9, mode="none"):
        shown = []
        for attack in attacks:
            cell = (rule, attack, 9, split, private, "none")
            behind = found.behind(*cell)
            near = bool(behind) and statistics.mean(behind) <= WITHIN
            shown.append(percent(found.of(*cell).values(), near) or "refused")
        lines.append(row((rule, *shown)))
    return "\n".join(lines)


def modes_table(found: Found, rules: Sequence[str], private: bool, split: str) -> str:
    """For each cell the recommended rule that is nearest to the clean run, and its distance in points."""
    attacks = [name for name in found.values("attack", private=private) if name != "none"]
    heads = [f"{mode}, {f} of 30" for mode, f in MODES]
    lines = [row(("attack", *heads)), row(["---"] * (len(heads) + 1))]
    for attack in attacks:
        shown = [attack]
        for mode, f in MODES:
            if (mode, f) == ("grouped", 9):
                shown.append("refused")
                continue
            cells = [(rule, attack, f, split, private, mode) for rule in rules]
            behind = {cell: found.behind(*cell) for cell in cells}
            near = sorted((statistics.mean(points), cell) for cell, points in behind.items() if points)
            if not near:
                shown.append("")
                continue
            points, cell = near[0]
            held = [of[0] for mean, of in near if mean <= WITHIN]
            text = f"{-100 * points:+.1f} {cell[0]}"
            shown.append(text if held else f"none holds: {text}")
        lines.append(row(shown))
    return "\n".join(lines)


def counts(found: Found, rules: Sequence[str]) -> str:
    """In how many cells each rule holds, and in how many any does."""
    lines = [row(("rule", "privacy", "cells", "held", "worst")), row(["---"] * 5)]
    for private in (True, False):
        attacks = [name for name in found.values("attack", private=private) if name != "none"]
        cells = list(product(attacks, MODES, SPLITS))
        best: dict[tuple, list[float]] = defaultdict(list)
        for rule in rules:
            behind = []
            for attack, (mode, f), split in cells:
                points = found.behind(rule, attack, f, split, private, mode)
                if points:
                    behind.append(statistics.mean(points))
                    best[attack, mode, f, split].append(behind[-1])
            lines.append(_count(rule, private, behind))
        lines.append(_count("any of them", private, [min(points) for points in best.values()]))
    return "\n".join(lines)


def _count(rule: str, private: bool, behind: Sequence[float]) -> str:
    if not behind:
        return row((rule, "", "0", "0", ""))
    held = sum(points <= WITHIN for points in behind)
    name = "epsilon 8" if private else "none"
    return row((rule, name, str(len(behind)), str(held), f"{-100 * max(behind):+.1f}"))


def markdown(file: Path, rules: Sequence[str]) -> str:
    """All tables of a file."""
    lines = [line for _, line in read(file)]
    found = Found(lines)
    parts = [f"seeds {sorted({line['seed'] for line in lines})}, {len(lines)} cells", clean_table(found)]
    for private, split in product((True, False), SPLITS):
        name = "epsilon 8" if private else "no privacy"
        parts.append(f"{name}, {split}, 9 of 30, single updates\n\n{rules_table(found, split, private)}")
    for private, split in product((True, False), SPLITS):
        name = "epsilon 8" if private else "no privacy"
        parts.append(
            f"{name}, {split}, nearest recommended rule\n\n{modes_table(found, rules, private, split)}"
        )
    parts.append(counts(found, rules))
    return "\n\n".join(parts)
