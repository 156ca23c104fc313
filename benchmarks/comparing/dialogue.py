"""Chit-chat: ten people, each a client, and the perplexity of a small language model on replies in dialogues
that no client has."""

import hashlib
import math
import sys
import tempfile
from pathlib import Path

import torch
from quality import rows_of

from comparing.cells import CENTRAL, RANK, SCALES, SMALLER_RANKS, Cell, job_of, noise_of
from comparing.federation import Client, federate
from comparing.last_layers import KeptText
from fedlora import demo_data
from services.client.data import Record, tokenise
from services.client.models import default_cache
from services.client.training.bases import load_base
from shared.core.lora import from_safetensors

LONGEST = 40  # characters of a reply that is trained on: the output layer is most of the work
POOL = 96  # of each person's records, of which a seed takes some


class Dialogue:
    """Runs cells of `chit-chat`."""

    metric = "perplexity"

    def __init__(self, cell: Cell) -> None:
        """Args: cell: any."""
        job = job_of(cell)
        with tempfile.TemporaryDirectory() as folder:
            written = demo_data.write_chit_chat(Path(folder))
            parts = [_records(file, LONGEST)[:POOL] for file in written.clients.values()]
            parts.append(_records(written.held_out, sys.maxsize))
        _, tokenizer = load_base(job, default_cache(), torch.device("cpu"))
        self._kept = KeptText(job, tokenise([record for part in parts for record in part], tokenizer, job))
        records = iter(self._kept.records)
        *self._people, self._held_out = ([next(records) for _ in part] for part in parts)
        print(f"{[len(part) for part in self._people]} records, {len(self._held_out)} held out", flush=True)

    def run(self, cell: Cell) -> float:
        """Perplexity of a token of the held-out replies."""
        job, kept = job_of(cell), self._kept
        ranks = SMALLER_RANKS if cell.ranks == "mixed" else (RANK,)
        models = {rank: kept.adapted(job, rank) for rank in ranks}
        parts = [[part[row] for row in _chosen(len(part), cell)] for part in self._people]
        if cell.noise == CENTRAL:
            parts = [[record for part in parts for record in part]]
        clients = {
            f"client-{n}": Client(part, models[ranks[-1 - n % len(ranks)]]) for n, part in enumerate(parts)
        }
        adapter, base = federate(job, noise_of(cell, job), clients)
        best = models[ranks[-1]]
        best.load(from_safetensors(adapter))
        best.shift(from_safetensors(base) if base else {})
        return math.exp(kept.loss(best.model, self._held_out))


def _records(file: Path, longest: int) -> list[Record]:
    """Those whose reply has at most so many characters."""
    return [
        Record(row["prompt"], row["response"]) for row in rows_of(file) if len(row["response"]) <= longest
    ]


def _chosen(count: int, cell: Cell) -> list[int]:
    """Rows of one person's pool, by the seed."""
    order = sorted(range(count), key=lambda row: hashlib.sha256(f"{cell.seed}/{row}".encode()).digest())
    return order[: SCALES[cell.data].records]
