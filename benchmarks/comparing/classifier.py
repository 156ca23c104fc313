"""BBC articles: ten clients, and the accuracy of a classifier that they train."""

from attacking.data import articles, deal

from comparing.cells import CENTRAL, CLIENTS, RANK, SMALLER_RANKS, Cell, job_of, noise_of
from comparing.federation import Client, federate
from comparing.last_layer import Kept
from shared.core.lora import from_safetensors


class Classifier:
    """Runs cells of `bbc`."""

    metric = "accuracy"

    def __init__(self, cell: Cell) -> None:
        """Args: cell: any."""
        self._kept = Kept(job_of(cell), articles())

    def run(self, cell: Cell) -> float:
        """Accuracy on 425 articles that nobody has."""
        job, kept = job_of(cell), self._kept
        dealt = deal(kept.labels.tolist(), cell.split, cell.seed, CLIENTS)
        parts = [sum(dealt.clients, ())] if cell.noise == CENTRAL else list(dealt.clients)
        ranks = SMALLER_RANKS if cell.ranks == "mixed" else (RANK,)
        models = {rank: kept.adapted(job, rank) for rank in ranks}
        clients = {
            f"client-{n}": Client([kept.tokens[row] for row in rows], models[ranks[-1 - n % len(ranks)]])
            for n, rows in enumerate(parts)
        }
        adapter, base = federate(job, noise_of(cell, job), clients)
        best = models[ranks[-1]]
        best.load(from_safetensors(adapter))
        best.shift(from_safetensors(base) if base else {})
        return kept.accuracy(best, dealt.held_out)
