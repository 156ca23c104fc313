"""GGUF weights as a safetensors folder."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def convert_gguf(weights: Path, folder: Path) -> None:
    """Dequantise `weights` to bfloat16 and save model and tokenizer in `folder`."""
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    dequantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**source)
    # The loaded config still calls the weights quantised; a fresh model with the same weights is not.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh: Any = AutoModelForCausalLM.from_config  # untyped in transformers
    model = fresh(config)
    model.load_state_dict(dequantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
