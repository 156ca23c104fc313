"""What many cheap rounds cost beside their training: `PYTHONPATH=. python benchmarks/rounds_time.py`.

A whole federation in one process, with real workers, a real protocol and divided noise, trains a small BERT;
then the same trainer does the same rounds' training alone, client after client. Printed is the ratio of the
two, and with `--profile` in which functions of the event loop's thread the rest is spent.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import structlog
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fedlora.api_client import GatewayClient
from fedlora.embedded import Composition, World, federation
from services.client.trainer import TrainingTask
from services.client.training.trainer import LoraTrainer
from services.coordinator.adapter.initial import initial
from shared.adapters.in_process import open_in_process
from shared.adapters.in_process.units import MemoryUnits
from shared.adapters.infrastructure import Endpoints, Infrastructure
from shared.adapters.no_telemetry import NoTelemetry
from shared.core.lora import from_safetensors
from shared.events.ids import JobId, RoundId
from shared.events.values import PoissonSampled
from shared.job.plan import planned_noise
from shared.job.specification import JobSpecification
from shared.ports import Bus, Cache

WORDS, RECORDS, LENGTH, DONE = 500, 200, 32, ("completed", "failed", "cancelled")


def model(folder: Path, width: int, layers: int) -> Path:
    """A BERT with random weights, as transformers save one."""
    config = BertConfig(
        vocab_size=WORDS, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=LENGTH, num_labels=2,
    )  # fmt: skip
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(folder)
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {f"w{n}": n for n in range(2, WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    return folder


def data(file: Path, client: int) -> Path:
    """Records of words that mean nothing, in two classes."""
    lines = []
    for row in range(RECORDS):
        words = " ".join(
            f"w{2 + (client * 7919 + row * 104729 + at * 1299709) % (WORDS - 2)}" for at in range(LENGTH)
        )
        lines.append(json.dumps({"text": words, "label": "ab"[row % 2]}))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def job(base: Path, secure: str, rounds: int, clients: int) -> dict:
    return {
        "name": "rounds",
        "model": {
            "base": str(base),
            "task": "sequence-classification",
            "labels": ["a", "b"],
            "max_length": LENGTH,
        },
        "data": {"text": "text", "label": "label"},
        "lora": {"rank": 8, "target_modules": "attention"},
        "training": {"local_steps": 1, "optimizer": "sgd", "learning_rate": 1.0},
        "privacy": {"epsilon": 8, "sampling_rate": 0.1, "noise": "divided"},
        "rounds": {"count": rounds, "min_clients": clients, "deadline_s": 120},
        "aggregation": {"secure": secure, "weight_cap": RECORDS, "stage_s": 10},
    }


class InMemory(World):
    """Nothing is durable: what the federation costs without transactions on disk and without traces."""

    async def bus(self, endpoints: Endpoints) -> Bus:
        """As `World`."""
        return await open_in_process()

    async def ports(
        self, name: str, endpoints: Endpoints, bus: Bus | None, cache: Cache | None
    ) -> Infrastructure:
        """As `World`."""
        opened = await super().ports(name, endpoints, bus, cache)
        telemetry = NoTelemetry()
        return replace(opened, units=MemoryUnits(opened.clock, telemetry.current), telemetry=telemetry)


async def federated(folder: Path, specification: dict, files: dict[str, Path], world: World) -> dict:
    """The gateway's view of the job at its end."""

    def follow(url: str) -> dict:
        with GatewayClient(url) as client:
            job_id = client.submit(yaml.safe_dump(specification).encode(), "benchmark")
            for _ in client.follow(job_id):
                pass
            return client.job(job_id)

    async with federation(Composition(Endpoints(home=folder), 0, files), world) as url:
        found = await asyncio.to_thread(follow, url)
    if found["status"] != "completed":
        raise SystemExit(f"the job is {found['status']}: {found['reason']}")
    return found


def alone(specification: dict, files: dict[str, Path]) -> float:
    """Seconds of the same trainings without federation."""
    of = JobSpecification.model_validate(specification)
    mechanism, trainer, job_id = (
        PoissonSampled.of_round(of, planned_noise(of)),
        LoraTrainer(device="cpu"),
        JobId("alone"),
    )
    layouts = [trainer.prepare(job_id, of, file, lambda *_: None).layout for file in files.values()]
    adapter = from_safetensors(initial(of, layouts[0]))
    started = time.monotonic()
    for number in range(of.rounds.count):
        for file in files.values():
            task = TrainingTask(job_id, RoundId(str(number)), of, file, adapter, mechanism, RECORDS, 1.0)
            trainer.train(task, lambda *_: None, lambda: False)
    return time.monotonic() - started


def seconds(found: dict) -> tuple[list[float], float]:
    """Of each round, from its start to its completion; and of all, with what is between."""
    moments = [
        [datetime.fromisoformat(one[name]) for name in ("started_at", "ended_at")] for one in found["rounds"]
    ]
    return [(ended - started).total_seconds() for started, ended in moments], (
        moments[-1][1] - moments[0][0]
    ).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secure", default="oneshot")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--in-memory", action="store_true", help="no transactions on disk, no traces")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = model(folder / "model", options.width, options.layers)
        files = {f"client-{n}": data(folder / f"{n}.jsonl", n) for n in range(options.clients)}
        specification = job(base, options.secure, options.rounds, options.clients)
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        world = InMemory() if options.in_memory else World()
        found = asyncio.run(federated(folder / "home", specification, files, world))
        profile.disable()
        each, whole = seconds(found)
        training = alone(specification, files)
    print(
        f"{options.secure}, {options.clients} clients, {options.rounds} rounds: {whole:.1f} s in all, "
        f"a round's median {statistics.median(each):.3f} s; "
        f"training alone {training:.1f} s; ratio {whole / training:.2f}"
    )
    if options.profile:
        pstats.Stats(profile).sort_stats("cumtime").print_stats("/(services|shared|fedlora)/", 45)


if __name__ == "__main__":
    main()
