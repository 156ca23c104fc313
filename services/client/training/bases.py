"""The frozen base model: its device, its precision, and how it is loaded."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from services.client.models import locate
from shared.errors import Refused
from shared.job.specification import JobSpecification, Model, Task

# It asks for kernels of its own that a CPU can do without.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def choose_device(name: str = "auto") -> torch.device:
    """`name`, or with `auto` CUDA, Apple's MPS, or the CPU. Raises: Refused for one that is not there."""
    if name != "auto":
        try:
            return torch.zeros(1, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0][:200]
            raise Refused("FEDLORA_CLIENT_DEVICE", f"{name}: {reason}", "set auto or cpu") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str) -> torch.dtype:
    """Of the frozen base; the adapter, its gradients and the noise are always float32.

    `auto` is float32. Anything coarser is trained in batches of fixed shape, and only where the
    self-test finds no bit of a record's gradient changed by its neighbours (docs/adr/0009).
    """
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def load_base(job: JobSpecification, cache: Path, device: torch.device) -> tuple[Any, Any]:
    """The frozen base model on `device` (before PEFT wraps it) and its tokenizer.

    Raises: Refused with the setting that is at fault.
    """
    source = locate(job.model.base, cache)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.name, local_files_only=source.local_only)
        options: dict[str, Any] = {
            "dtype": choose_dtype(job.model.dtype),
            "local_files_only": source.local_only,
            **_quantised(job.model, device),
        }
        if job.model.task is Task.CAUSAL_LM:
            base = AutoModelForCausalLM.from_pretrained(source.name, **options)
        else:
            base = AutoModelForSequenceClassification.from_pretrained(
                source.name, num_labels=len(job.model.labels), **options
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Refused(
            "model.base", f"{job.model.base} cannot be loaded: {reason}", "name another model or a folder"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    base.config.pad_token_id = tokenizer.pad_token_id
    placed: Any = base
    return (placed if job.model.quantisation != "none" else placed.to(device)), tokenizer


def _quantised(model: Model, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` needs for an 8-bit or 4-bit base. Raises: Refused without bitsandbytes."""
    if model.quantisation == "none":
        return {}
    if any(find_spec(name) is None for name in ("bitsandbytes", "accelerate")):
        raise Refused(
            "model.quantisation",
            "bitsandbytes is not installed on this worker",
            "pip install 'fedlora[quantised]', or set model.quantisation: none",
        )
    if model.quantisation == "8bit":
        # A threshold above 0 picks outlier columns from the whole batch: records would see each other.
        how: dict[str, Any] = {"load_in_8bit": True, "llm_int8_threshold": 0.0}
    else:
        how = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": choose_dtype(model.dtype),
        }
    config: Any = BitsAndBytesConfig  # untyped in transformers
    return {"quantization_config": config(**how), "device_map": {"": device}}
