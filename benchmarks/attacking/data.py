"""BBC articles dealt to 30 clients, the same for everybody from a seed: evenly, or with skewed classes."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quality import dealt, rows_of

from fedlora import demo_data
from services.client.data.reading import Record

CLIENTS, HELD_OUT, ROOT, ALPHA = 30, 425, 60, 0.3
CLASSES = ("business", "entertainment", "politics", "sports", "tech")


@dataclass(frozen=True)
class Deal:
    """Row numbers of one deal.

    Attributes:
        clients: of each client's records; equally many.
        root: of the records that are public.
        held_out: of those that measure accuracy.
    """

    clients: tuple[tuple[int, ...], ...]
    root: tuple[int, ...]
    held_out: tuple[int, ...]


def articles() -> list[Record]:
    """Each distinct article once, in a fixed order."""
    with tempfile.TemporaryDirectory() as folder:
        written = demo_data.write_bbc(Path(folder))
        rows = [row for file in [*written.clients.values(), written.held_out] for row in rows_of(file)]
    ordered, _ = dealt(rows, 0, 1, 0)
    return [Record("", row["text"], label=CLASSES.index(row["label"])) for row in ordered[0]]


def deal(labels: Sequence[int], split: str, seed: int, clients: int = CLIENTS) -> Deal:
    """Cut the articles' rows up.

    Args:
        labels: of all articles, in their order.
        split: "iid", or "dirichlet".
        seed: of the deal.
        clients: how many.

    Source: Hsu, Qi, Brown 2019, arXiv:1909.06335, Section 3.1 ("dirichlet"): each client draws its mixture of
        classes from a Dirichlet distribution with concentration 0.3, and its records from that; a class
        without records left counts no more.
    """
    order = sorted(range(len(labels)), key=lambda row: hashlib.sha256(f"{seed}/{row}".encode()).digest())
    held_out, root, rest = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + ROOT], order[HELD_OUT + ROOT :]
    size = len(rest) // clients
    if split == "iid":
        dealt = [tuple(rest[n::clients][:size]) for n in range(clients)]
    else:
        dealt = _skewed(rest, labels, clients, size, np.random.default_rng(seed))
    return Deal(tuple(dealt), tuple(root), tuple(held_out))


def _skewed(
    rows: Sequence[int], labels: Sequence[int], count: int, size: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    pools = [[row for row in rows if labels[row] == label] for label in range(len(CLASSES))]
    clients = []
    for _ in range(count):
        mixture, chosen = rng.dirichlet([ALPHA] * len(CLASSES)), []
        while len(chosen) < size:
            left = mixture * [bool(pool) for pool in pools]
            if not left.sum() > 0:
                left = np.array([float(len(pool)) for pool in pools])
            chosen.append(pools[rng.choice(len(CLASSES), p=left / left.sum())].pop())
        clients.append(tuple(chosen))
    return clients
