"""A private step against the same step without privacy, and against Opacus: time and peak memory.

One Llama of 5.7 million weights with LoRA on every linear layer, one batch, all variants in one run:
CPU seconds of a step, interleaved, and the most memory that a step holds at once.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from opacus import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleModuleFastGradientClipping,
)
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from services.client.data.tokens import TokenRecord
from services.client.training.adapted_model import AdaptedModel, adapt
from services.client.training.batching import Batching, together
from services.client.training.clipping import FixedClipping
from services.client.training.noise import KeyStream
from services.client.training.optimizer import SecureDPOptimizer
from services.client.training.step import losses, private_step
from shared.job.specification import JobSpecification, Task

CLIP, SIGMA, RATE = 1.0, 1.0, 0.01
Step = Callable[[], None]


class Tokenizer:
    """As much as a step needs."""

    pad_token_id = 0


def model(tokens: int) -> AdaptedModel:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=704, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    value = {
        "name": "benchmark",
        "model": {"base": "llama", "task": "causal-lm"},
        "data": {"text": "text"},
        "lora": {"rank": 8, "method": "fedit", "target_modules": "all"},
    }
    job = JobSpecification.model_validate(value)
    adapted = adapt(LlamaForCausalLM(config), Tokenizer(), job, torch.device("cpu"))
    return AdaptedModel(**{**vars(adapted), "batching": Batching(tokens=tokens)})


def without_privacy(adapted: AdaptedModel, records: list[TokenRecord]) -> Step:
    optimizer = sgd(adapted)
    batch = together(records)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses(adapted, batch, Task.CAUSAL_LM).mean().backward()
        optimizer.step()

    return step


def fedlora(adapted: AdaptedModel, records: list[TokenRecord]) -> Step:
    optimizer = SecureDPOptimizer(
        sgd(adapted), noise_multiplier=SIGMA, clipping=FixedClipping(CLIP),
        expected_batch_size=len(records), stream=KeyStream(),
    )  # fmt: skip
    return lambda: private_step(adapted, optimizer, records, Task.CAUSAL_LM, lambda: False)


def opacus_per_sample(mode: str) -> Callable[[AdaptedModel, list[TokenRecord]], Step]:
    def prepare(adapted: AdaptedModel, records: list[TokenRecord]) -> Step:
        wrapper = {"force_functorch": True} if mode == "functorch" else {}
        module = GradSampleModule(adapted.model, loss_reduction="sum", **wrapper)
        optimizer = DPOptimizer(
            sgd(adapted), noise_multiplier=SIGMA, max_grad_norm=CLIP, expected_batch_size=len(records)
        )
        wrapped = AdaptedModel(**{**vars(adapted), "model": module})
        batch = together(records)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            losses(wrapped, batch, Task.CAUSAL_LM).sum().backward()
            optimizer.step()

        return step

    return prepare


def opacus_ghost(adapted: AdaptedModel, records: list[TokenRecord]) -> Step:
    module = GradSampleModuleFastGradientClipping(adapted.model, max_grad_norm=CLIP, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        sgd(adapted), noise_multiplier=SIGMA, max_grad_norm=CLIP, expected_batch_size=len(records)
    )
    wrapped = AdaptedModel(**{**vars(adapted), "model": module})
    batch = together(records)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        DPTensorFastGradientClipping(module, optimizer, losses(wrapped, batch, Task.CAUSAL_LM)).backward()
        optimizer.step()

    return step


VARIANTS = {
    "without privacy": without_privacy,
    "fedlora": fedlora,
    "Opacus hooks": opacus_per_sample("hooks"),
    "Opacus functorch": opacus_per_sample("functorch"),
    "Opacus ghost": opacus_ghost,
}


def sgd(adapted: AdaptedModel) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(adapted.trained.values()), lr=1e-3)


def batch_of(rows: int, length: int) -> list[TokenRecord]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 2000, (rows, length), generator=generator).tolist()
    return [TokenRecord(tuple(row), tuple(row)) for row in ids]


def peak_mib(step: Step) -> float:
    """Most that a step holds at once beyond what was there before it, by torch's own count."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    found = profiled.profiler.kineto_results.events()
    events = sorted((e for e in found if e.name() == "[memory]"), key=lambda event: event.start_ns())
    held = largest = 0
    for event in events:
        held += event.nbytes()
        largest = max(largest, held)
    return largest / 2**20


def compare(rows: int, length: int, repeats: int) -> None:
    steps = {
        name: prepare(model(rows * length), batch_of(rows, length)) for name, prepare in VARIANTS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if number:  # the first warms up
                seconds[name].append(time.process_time() - started)
    first = next(iter(VARIANTS))
    memory = {name: peak_mib(step) for name, step in steps.items()}
    print(f"\n{rows} records x {length} tokens, {repeats} steps each, CPU time\n")
    print(f"{'':20}{'ms a step':>12}{'ratio':>8}{'MiB':>8}{'ratio':>8}")
    for name in VARIANTS:
        # Steps of one round beside each other: what else the machine does hits both.
        ratio = statistics.median(s / b for s, b in zip(seconds[name], seconds[first], strict=True))
        print(
            f"{name:20}{statistics.median(seconds[name]) * 1e3:12.0f}{ratio:8.2f}"
            f"{memory[name]:8.0f}{memory[name] / memory[first]:8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["16x128", "4x512"], help="records x tokens")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for shape in options.shapes:
        rows, length = map(int, shape.split("x"))
        compare(rows, length, options.repeats)


if __name__ == "__main__":
    main()
