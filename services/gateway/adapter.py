"""The global adapter as a zip of the folder that `PeftModel.from_pretrained` loads."""

import io
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.core.lora import from_safetensors, initial_tensor, write_peft_adapter
from shared.core.lora.files import BASE_CHANGE_FILE
from shared.core.lora.methods.adapters import plain_lora
from shared.events.values import Layout
from shared.job.specification import JobSpecification, Task

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Parts:
    """What a job has made: safetensors each, empty for none.

    Attributes:
        trained: the trained tensors.
        start: tensors in place of the public seed's.
        base: layer -> what was added to its frozen weight, over LoRA's scale.
    """

    trained: bytes
    start: bytes = b""
    base: bytes = b""


def zipped_adapter(specification: JobSpecification, layout: Layout, parts: Parts, card: str) -> bytes:
    """Trained tensors, and the frozen ones that everybody derives from the job's seed, as PEFT files; with
    `base_change.safetensors` where frozen weights have changed too.

    Args:
        specification: the job.
        layout: every tensor of the adapter, trained or not.
        parts: what was trained.
        card: README.md of the folder.
    """
    tensors = whole_adapter(specification, layout, parts)
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as name:
        write_peft_adapter(Path(name), peft_config(specification, layout), tensors)
        (Path(name) / "README.md").write_text(card, encoding="utf-8")
        if parts.base:
            (Path(name) / BASE_CHANGE_FILE).write_bytes(parts.base)
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(Path(name).iterdir()):
                archive.write(file, file.name)
    return content.getvalue()


def whole_adapter(
    specification: JobSpecification, layout: Layout, parts: Parts
) -> dict[str, NDArray[np.float32]]:
    """Every tensor, by the names that PEFT knows: B R of Fed-SB is one B."""
    start = from_safetensors(parts.start) if parts.start else {}
    tensors = {**start, **from_safetensors(parts.trained)}
    named = {}
    for tensor in layout.tensors:
        found = tensors.get(tensor.name)
        named[tensor.name] = (
            initial_tensor(specification.seed, tensor.name, tensor.shape, specification.lora.method)
            if found is None
            else found
        )
    return plain_lora(named) if specification.lora.method == "fedsb" else named


def peft_config(specification: JobSpecification, layout: Layout) -> dict[str, object]:
    """What PEFT's adapter_config.json says of this job."""
    lora, model = specification.lora, specification.model
    names = [tensor.name for tensor in layout.tensors]
    rank = next(tensor.shape[0] for tensor in layout.tensors if ".lora_A." in tensor.name)
    # Whole paths, so that no other layer of the same short name is adapted.
    adapted = {name.rpartition(".lora_")[0].removeprefix(PREFIX) for name in names if ".lora_" in name}
    heads = {name.rpartition(".")[0].removeprefix(PREFIX) for name in names if ".lora_" not in name}
    classifies = model.task is Task.SEQUENCE_CLASSIFICATION
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifies else "CAUSAL_LM",
        "base_model_name_or_path": model.base,
        "r": rank,
        "lora_alpha": lora.alpha or 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(adapted),
        "modules_to_save": sorted(heads) or None,
        "bias": "none",
        "inference_mode": True,
        "fan_in_fan_out": False,
    }
