"""`python -m services.client.training.merging`: a base model with an exported adapter in it, as one model."""

import argparse
import sys
from pathlib import Path
from typing import Any

from peft import PeftModel

from services.client.command_line import print_json
from services.client.models import default_cache
from services.client.private import MARKER, mark
from services.client.training.bases import choose_device, load_base
from services.client.training.layers import frozen_layers
from shared.core.lora import from_safetensors
from shared.core.lora.files import BASE_CHANGE_FILE
from shared.errors import Refused
from shared.job.loading import load_job


def change_base(model: PeftModel, adapter: Path) -> None:
    """Add what the adapter's folder says to the frozen weights, if it says anything.

    Raises: Refused when it is of another model.
    """
    file = adapter / BASE_CHANGE_FILE
    if not file.exists():
        return
    layers = frozen_layers(model)
    for name, change in from_safetensors(file.read_bytes()).items():
        if name not in layers:
            raise Refused("adapter", f"the model has no layer {name}", "name the adapter's own base model")
        layers[name].set(change)


def load_adapter(base: Any, adapter: Path, *, trainable: bool = False) -> PeftModel:  # noqa: ANN401 - of transformers
    """`base` with an exported adapter and what its folder changes in the frozen weights.

    Raises: Refused when the parts do not fit.
    """
    try:
        model = PeftModel.from_pretrained(base, str(adapter), is_trainable=trainable)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Refused("adapter", f"{adapter} does not fit: {reason}", "name an exported folder") from None
    change_base(model, adapter)
    return model


def merge(job_file: Path, adapter: Path, out: Path) -> dict[str, str]:
    """Write the merged model and its tokenizer, marked as private where the adapter is.

    Raises: Refused when the parts do not fit.
    """
    base, tokenizer = load_base(load_job(job_file), default_cache(), choose_device("cpu"))
    merged: Any = load_adapter(base, adapter).merge_and_unload()
    if (adapter / MARKER).exists():
        mark(out)
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"out": str(out)}


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m services.client.training.merging")
    for name in ("job", "adapter", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    return print_json(lambda: merge(given.job, given.adapter, given.out), 2)


if __name__ == "__main__":
    sys.exit(main())
