"""The JSON lines of `benchmarks/attacks.py` as markdown."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from attacking.attacks import ATTACKS

WITHIN = 0.02  # of the clean run of the same seed, split and privacy
MEASURED = ("accuracy", "lost", "cpu_s")
SPLITS = ("iid", "dirichlet")
MODES = (("none", 6), ("none", 9), ("grouped", 6), ("grouped", 9), ("mpc3", 6), ("mpc3", 9))
SETTINGS = tuple(product((True, False), SPLITS))


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

    def ran(self, *cell: object) -> bool:
        """Whether the file has it."""
        return cell in self._by_cell

    def lost(self, *cell: object) -> float:
        """The mean number of rounds that opened nothing."""
        return statistics.mean([line["lost"] for line in self._by_cell[cell].values()])

    def clean(self, split: str, private: bool) -> dict[int, float]:
        """Of the mean without attack."""
        return self.of("mean", "none", 0, split, private, "none")

    def absent(self, f: int, split: str, private: bool) -> dict[int, float]:
        """Of the mean of the honest clients alone."""
        return self.of("mean", "absent", f, split, private, "none")

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


def held(file: Path, cell: dict) -> bool:
    """Whether another rule is within 2 points of the clean run in this cell, or of the one in which hostile
    clients stay away."""
    found = Found(line for _, line in read(file) if line["seed"] == cell["seed"])
    split, private = cell["split"], cell["private"]
    best = [*found.clean(split, private).values(), *found.absent(cell["f"], split, private).values()]
    same = {name: cell[name] for name in ("attack", "f", "split", "private", "mode")}
    others = found.values("accuracy", **same)
    return bool(best) and any(accuracy >= min(best) - WITHIN for accuracy in others if accuracy is not None)


def percent(figures: Iterable[float], mark: str = "") -> str:
    """The mean in per cent, and of several the range."""
    each = [100 * figure for figure in figures]
    if not each:
        return ""
    shown = f"{mark}{statistics.mean(each):.1f}{mark}"
    return shown if len(each) == 1 else f"{shown} ({min(each):.0f}-{max(each):.0f})"


def row(cells: Iterable[str]) -> str:
    """Of a table."""
    return f"| {' | '.join(cells)} |"


def privacy(private: bool) -> str:
    """As people call it."""
    return "epsilon 8" if private else "no privacy"


def clean_table(found: Found) -> str:
    """The runs that all others are held against."""
    lines = [row(("", *(f"{privacy(p)}, {s}" for p, s in SETTINGS))), row(["---"] * 5)]
    figures = (percent(found.clean(s, p).values()) for p, s in SETTINGS)
    lines.append(row(("mean of 30, nobody hostile", *figures)))
    for f in (6, 9):
        figures = (percent(found.absent(f, s, p).values()) for p, s in SETTINGS)
        lines.append(row((f"mean of {30 - f}, the hostile ones stay away", *figures)))
    return "\n".join(lines)


def marked(found: Found, cell: tuple) -> str:
    """Bold within 2 points of the clean run, italic within 2 of that in which hostile clients stay away."""
    behind, absent = found.behind(*cell), found.absent(*cell[2:5])
    if behind and statistics.mean(behind) <= WITHIN:
        return percent(found.of(*cell).values(), "**")
    away = [absent[seed] - accuracy for seed, accuracy in found.of(*cell).items() if seed in absent]
    near = bool(away) and statistics.mean(away) <= WITHIN
    shown = percent(found.of(*cell).values(), "*" if near else "")
    return shown or ("refused" if found.ran(*cell) else "")


def rules_table(found: Found, split: str, private: bool) -> str:
    """Every rule against every attack by 9 of 30, on single updates."""
    lines = [row(("rule", "none", *ATTACKS)), row(["---"] * (len(ATTACKS) + 2))]
    for rule in found.values("rule", private=private, split=split, f=9, mode="none"):
        cells = [(rule, attack, 9, split, private, "none") for attack in ("none", *ATTACKS)]
        lines.append(row((rule, *(marked(found, cell) for cell in cells))))
    return "\n".join(lines)


def modes_table(found: Found, rules: Sequence[str], private: bool, split: str) -> str:
    """For each cell the recommended rule that came out best, by name."""
    heads = [f"{mode}, {f} of 30" for mode, f in MODES]
    lines = [row(("attack", *heads)), row(["---"] * (len(heads) + 1))]
    for attack in ATTACKS:
        shown = [attack]
        for mode, f in MODES:
            cells = [(rule, attack, f, split, private, mode) for rule in rules]
            ran = [(statistics.mean(found.of(*cell).values()), cell) for cell in cells if found.of(*cell)]
            if (mode, f) == ("grouped", 9):
                shown.append("refused")
            elif ran:
                _, cell = max(ran)
                shown.append(f"{marked(found, cell)} {cell[0]}")
            else:
                shown.append("")
        lines.append(row(shown))
    return "\n".join(lines)


def counts(found: Found, recommended: Mapping[bool, Sequence[str]]) -> str:
    """In how many cells each rule holds, and in how many any does."""
    heads = (
        "rule",
        "privacy",
        "cells",
        "within 2 of the clean run",
        "of the run without the hostile clients",
    )
    lines = [row(heads), row(["---"] * len(heads))]
    for private in (True, False):
        best: dict[tuple, set[str]] = defaultdict(set)
        for rule in recommended[private]:
            shown = []
            for attack, (mode, f), split in product(ATTACKS, MODES, SPLITS):
                if text := marked(found, (rule, attack, f, split, private, mode)):
                    shown.append("clean" if "**" in text else "absent" if "*" in text else "")
                    best[attack, mode, f, split].add(shown[-1])
            lines.append(_count(rule, private, [{one} for one in shown]))
        lines.append(_count("any of them", private, list(best.values())))
    return "\n".join(lines)


def _count(rule: str, private: bool, cells: Sequence[set[str]]) -> str:
    clean = sum("clean" in cell for cell in cells)
    either = sum(bool(cell & {"clean", "absent"}) for cell in cells)
    return row((rule, privacy(private), str(len(cells)), str(clean), str(either)))


def markdown(file: Path, recommended: Mapping[bool, Sequence[str]]) -> str:
    """All tables of a file."""
    lines = [line for _, line in read(file)]
    found = Found(lines)
    seeds = ", ".join(
        f"{seed}: {sum(line['seed'] == seed for line in lines)}" for seed in found.values("seed")
    )
    parts = [f"Cells by seed: {seeds}.", clean_table(found)]
    for private, split in SETTINGS:
        title = f"{privacy(private)}, {split}, 9 of 30, single updates"
        parts.append(f"{title}\n\n{rules_table(found, split, private)}")
    for private, split in SETTINGS:
        title = f"{privacy(private)}, {split}, best recommended rule"
        parts.append(f"{title}\n\n{modes_table(found, recommended[private], private, split)}")
    parts.append(counts(found, recommended))
    return "\n\n".join(parts)
