"""`python -m services.client.training.framing`: Fed-SB's U and V of a model's weights, or of an adapter."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.client.command_line import print_json
from services.client.models import default_cache
from services.client.training.adapted_model import AdaptedModel, adapt
from services.client.training.bases import choose_device, load_base
from services.client.training.layers import frozen_layers
from shared.core.lora import from_safetensors, to_safetensors
from shared.core.lora.files import TENSORS_FILE
from shared.core.lora.methods.fedsb import frames
from shared.errors import Refused, Rejected
from shared.job.loading import load_job

Tensors = Mapping[str, NDArray[np.float32]]


def of_weights(adapted: AdaptedModel) -> dict[str, NDArray[np.float32]]:
    """U and V^T of each adapted layer's own weight W, which is public: tensors by PEFT's names."""
    matrices = {}
    for name, layer in frozen_layers(adapted.model).items():
        weight = layer.loaded.cpu().numpy()
        matrices[name] = weight.T if layer.transposed else weight
    return _framed(matrices, adapted)


def of_adapter(tensors: Tensors, adapted: AdaptedModel) -> dict[str, NDArray[np.float32]]:
    """U and V^T of B A of an adapter that was released already: nothing more is spent.

    Raises: Refused when it lacks a layer.
    """
    matrices = {}
    for name in sorted({one.split(".lora_")[0] for one in adapted.parameters if ".lora_" in one}):
        try:
            left, right = tensors[f"{name}.lora_B.weight"], tensors[f"{name}.lora_A.weight"]
        except KeyError:
            raise Refused("adapter", f"it has no layer {name}", "name one of the same model") from None
        matrices[name] = left @ right
    return _framed(matrices, adapted)


def _framed(matrices: Tensors, adapted: AdaptedModel) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, matrix in matrices.items():
        for factor, values in frames(matrix, adapted.rank).items():
            found[f"{name}.{factor}.weight"] = values
    return found


def frame(job_file: Path, out: Path, adapter: Path | None) -> dict[str, str]:
    """Write them. Raises: Refused when the parts do not fit."""
    job, device = load_job(job_file), choose_device("cpu")
    base, tokenizer = load_base(job, default_cache(), device)
    adapted = adapt(base, tokenizer, job, device)
    if adapter is None:
        found = of_weights(adapted)
    else:
        file = adapter / TENSORS_FILE if adapter.is_dir() else adapter
        try:
            found = of_adapter(from_safetensors(file.read_bytes()), adapted)
        except (OSError, Rejected) as error:
            raise Refused("adapter", f"{file}: {error}", "name an exported folder") from None
    out.write_bytes(to_safetensors(found))
    return {"out": str(out)}


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m services.client.training.framing")
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    given = parser.parse_args()
    return print_json(lambda: frame(given.job, given.out, given.adapter), 2)


if __name__ == "__main__":
    sys.exit(main())
