"""LoRA methods, budgets and kinds of noise on real data, beside DP-SGD on all records in one place.

`PYTHONPATH=. python benchmarks/learning.py bbc|chit-chat --out FILE` trains ten clients once for each cell:
a method, an epsilon, local, divided or central noise, uniform or mixed ranks. FILE gets a JSON line a cell;
what it has is not run again, so that a run can be cut and go on. `--report FILE` prints the tables. `--tune`
runs the learning rates that were chosen from, on seed 0, which is not reported.

The worker trains, updates become integers and are summed as in secure aggregation (with each client's Skellam
noise where it is divided), and the coordinator steps: all of it the services' own code, without bus,
encryption or database between. Noise, samples and rounding are secret: reruns give figures that differ.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from comparing import cells, reporting
from comparing.classifier import Classifier
from comparing.dialogue import Dialogue

SUBJECTS = {"bbc": Classifier, "chit-chat": Dialogue}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", choices=SUBJECTS)
    parser.add_argument("--out", type=Path, help="run the cells that this file lacks")
    parser.add_argument("--report", type=Path, help="print what this file has")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--parts", nargs="+", default=list(cells.PARTS), choices=cells.PARTS)
    parser.add_argument("--epsilons", nargs="+", help="only cells of these, such as 8 none")
    parser.add_argument("--methods", nargs="+", help="only cells of these")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(reporting.markdown(options.report))
    if not (options.data and options.out):
        return
    torch.set_num_threads(1)
    done = {json.dumps(asdict(cell)) for cell, _ in reporting.read(options.out)}
    wanted = cells.tuning(options.data) if options.tune else []
    if not options.tune:
        wanted = [cell for part in options.parts for cell in cells.PARTS[part](options.data, options.seeds)]
    subject = None
    for cell in wanted:
        if (key := json.dumps(asdict(cell))) in done:
            continue
        if options.epsilons and reporting.named(cell.epsilon) not in options.epsilons:
            continue
        if options.methods and cell.method not in options.methods:
            continue
        subject = subject or SUBJECTS[options.data](cell)
        started = time.monotonic()
        found = {subject.metric: round(subject.run(cell), 4), "wall_s": round(time.monotonic() - started, 1)}
        with options.out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(cell) | found) + "\n")
        print(key, found, flush=True)


if __name__ == "__main__":
    main()
