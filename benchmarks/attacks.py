"""What hostile clients do to real federated training, and which rules stand it.

`PYTHONPATH=. python benchmarks/attacks.py --out FILE` trains MiniLM on BBC articles with 30 clients, once
for each cell: a rule, an attack, how many attack, how classes are dealt, privacy (epsilon 8) or none, and
whether the rule sees single updates (`none`), means of random groups of 2 (`grouped`) or, through the real
three-party core, the Gram matrix of sketches (`mpc3`). FILE gets a JSON line a cell; what it
has is not run again. `--table FILE` prints the tables.

A round is one step of every client: DP-SGD on all its records, or without privacy on half of them. Seeds fix
the deal, who is hostile, the initial adapter, noise and permutations: all cells of a seed see the same ones.
Sharing, rounding and sketching under `mpc3` are secret: there a rerun gives figures that differ a little.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from attacking import data, judging, tables, three_parties
from attacking.attacks import ATTACKS, Seen, flipped
from attacking.training import LastLayer, SeededBytes, Setting
from quality import NO_NOISE, example

from services.client.training.noise import KeyStream
from shared.errors import Refused, Rejected
from shared.job.plan import planned_bound, planned_noise
from shared.job.specification import JobSpecification

ROUNDS, LENGTH = 40, 256
LAST_VALUE = "layer.5.attention.self.value"
PRIVATE = {"learning_rate": 5.0, "clip_norm": 1.0, "sampling_rate": 1.0}
OPEN = {"learning_rate": 3.0, "clip_norm": 1e3, "sampling_rate": 0.5}
OPEN_BOUND = 1.0  # on a coordinate where nothing bounds a gradient: an honest update's are below 0.5
SERVER_RATE = {True: 10.0, False: 1.0}  # of FLTrust, which shortens all updates to that of the root
FRACTIONS = (6, 9)
RECOMMENDED = {
    True: ("nnm, multi-krum", "foolsgold", "nnm, geometric-median"),
    False: ("nnm, multi-krum", "cosine-clustering", "geometric-median"),
}


@dataclass(frozen=True)
class Cell:
    """One training run.

    With attack "none" nobody is hostile, but the rule is asked for `f` all the same; with "absent" those who
    would be hostile send nothing: no rule that looks at updates can know more than who they are.
    """

    rule: str
    attack: str
    f: int
    split: str
    private: bool
    mode: str
    seed: int


def cells(seed: int, part: str) -> Iterator[Cell]:
    """Of one seed: "clean"; "rules", each rule against each attack by 9 of 30; "modes", the recommended."""
    splits = ("dirichlet", "iid")
    if part == "clean":
        yield from (Cell("mean", "none", 0, s, p, "none", seed) for p in (True, False) for s in splits)
        for f in FRACTIONS:
            yield from (Cell("mean", "absent", f, s, p, "none", seed) for p in (True, False) for s in splits)
    for private in (True, False) if part == "modes" else (part == "rules",):
        for split in splits:
            for attack in ("none", *ATTACKS):
                if part in ("rules", "open rules"):
                    yield from (Cell(r, attack, 9, split, private, "none", seed) for r in judging.NAMES)
                elif part == "modes" and attack != "none":
                    for mode, f in tables.MODES:
                        if (mode, f) != ("grouped", 9):  # 9 of 15 groups may be hostile: no rule bears that
                            rules = RECOMMENDED[private]
                            yield from (Cell(r, attack, f, split, private, mode, seed) for r in rules)


def job_for(private: bool, seed: int) -> JobSpecification:
    """The demo's job, one step a round, on the last layer."""
    job, of = example("bbc-news.yaml"), PRIVATE if private else OPEN
    job["model"] |= {"max_length": LENGTH, "labels": list(data.CLASSES)}
    job["lora"]["target_modules"] = [LAST_VALUE]
    job["training"] |= {"local_steps": 1, "learning_rate": of["learning_rate"]}
    job["privacy"] |= {"sampling_rate": of["sampling_rate"], "clip_norm": of["clip_norm"]}
    job["rounds"]["count"] = ROUNDS
    return JobSpecification.model_validate(job | {"seed": seed})


class Bench:
    """The model of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.records = data.articles()
        self.model = LastLayer(job_for(True, seed), self.records)
        self.settings = {}
        for private in (True, False):
            job = job_for(private, seed)
            self.settings[private] = Setting(job, planned_noise(job) if private else NO_NOISE)
        rows = np.array(self.deal("iid").clients[0])
        off = max(self.model.compare(setting, rows, seed) for setting in self.settings.values())
        print(f"seed {seed}: a client's step beside the worker's own, off by {off:.1e}", flush=True)

    def deal(self, split: str) -> data.Deal:
        """Whose records are which."""
        return data.deal([record.label or 0 for record in self.records], split, self.seed)

    def run(self, cell: Cell) -> tuple[float, int]:
        """Accuracy on held-out records after the last round, and how many rounds opened nothing."""
        setting, dealt, model = self.settings[cell.private], self.deal(cell.split), self.model
        public = Setting(setting.job, NO_NOISE)
        bound = planned_bound(setting.job, setting.noise) if cell.private else OPEN_BOUND
        clients = [np.array(rows) for rows in dealt.clients]
        hostile = np.random.default_rng(self.seed).permutation(data.CLIENTS)[: cell.f]
        if cell.attack == "none":
            hostile = hostile[:0]
        honest = np.setdiff1d(np.arange(data.CLIENTS), hostile)
        labels = [model.labels[rows] for rows in clients]
        if cell.attack == "label flip":
            for client in hostile:
                labels[client] = flipped(labels[client], len(data.CLASSES))
        root, lost = np.array(dealt.root), 0
        vector = model.start
        for number in range(ROUNDS):
            streams = [KeyStream(SeededBytes(self.seed, number, client)) for client in range(data.CLIENTS)]
            rows = model.updates(vector, clients, labels, setting, streams)
            rng = np.random.default_rng([self.seed, number])
            if cell.attack == "absent":
                rows = rows[honest]
            elif len(hostile):
                normal = rng.standard_normal((len(hostile), model.dimension))
                rows[hostile] = ATTACKS[cell.attack](Seen(rows[honest], rows[hostile], normal))
            stream = [KeyStream(SeededBytes(self.seed, number, "root"))]
            own = model.updates(vector, [root], [model.labels[root]], public, stream)[0]
            if cell.mode == "mpc3":
                try:
                    update = three_parties.judge(cell.rule, rows, own, cell.f, bound, rng)
                except Rejected:  # a sum that would show one client is not opened: the model stays
                    update, lost = np.zeros(model.dimension), lost + 1
            else:
                judge = judging.single if cell.mode == "none" else judging.grouped
                update = judge(cell.rule, rows, own, cell.f, rng)
            rate = SERVER_RATE[cell.private] if cell.rule == "fltrust" else 1.0
            vector = (vector + rate * update).astype(np.float32)
        return model.accuracy(vector, dealt.held_out), lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="run the cells that this file lacks")
    parser.add_argument("--table", type=Path, help="print what this file has")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--parts", nargs="+", default=["clean", "rules", "modes", "open rules"])
    parser.add_argument("--until-held", action="store_true", help="no further rule where one has held")
    parser.add_argument("--match", default="", help="only cells whose JSON holds this")
    options = parser.parse_args()
    if options.table:
        print(tables.markdown(options.table, RECOMMENDED))
        return
    torch.set_num_threads(1)
    done = {key for key, _ in tables.read(options.out)}
    for seed in options.seeds:
        bench = Bench(seed)
        for part in options.parts:
            for cell in cells(seed, part):
                key = json.dumps(asdict(cell))
                if key in done or options.match not in key:
                    continue
                if options.until_held and tables.held(options.out, asdict(cell)):
                    continue
                done.add(key)
                started = time.process_time()
                try:
                    accuracy, lost = bench.run(cell)
                except Refused as refused:
                    print(key, refused, flush=True)
                    accuracy, lost = None, 0
                found = {
                    "accuracy": accuracy and round(accuracy, 4),
                    "lost": lost,
                    "cpu_s": round(time.process_time() - started, 1),
                }
                with options.out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(cell) | found) + "\n")
                print(key, found, flush=True)


if __name__ == "__main__":
    main()
