"""Which layers of a base model get an adapter, and which cannot have one."""

from fnmatch import fnmatchcase

from torch import nn

from shared.errors import Refused
from shared.job.specification import JobSpecification

# By the last parts of a module's name.
ATTENTION = (
    "q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "c_attn", "q_lin", "v_lin", "k_lin",
)  # fmt: skip
MLP = ("gate_proj", "up_proj", "down_proj", "c_fc", "fc1", "fc2", "lin1", "lin2", "intermediate.dense")
HEADS = ("classifier", "score")
EXPERTS = (".experts.", ".block_sparse_moe.", ".router.")  # tokens of all records are mixed there


def target_modules(base: nn.Module, job: JobSpecification) -> list[str]:
    """Full names of the layers that get an adapter.

    Raises: Refused when there are none, or when one has no exact per-record gradient, by its name.
    """
    wanted = job.lora.target_modules
    linear = [name for name, module in base.named_modules() if _is_linear(name, module)]
    if isinstance(wanted, tuple):
        _refuse_others(base, wanted)
        chosen = _matching(linear, wanted)
    elif wanted == "all":
        chosen = linear
    else:
        chosen = _matching(linear, ATTENTION if wanted == "attention" else MLP)
    if not chosen:
        names = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise Refused(
            "lora.target_modules",
            f"{job.model.base} has no linear layer that matches {wanted}",
            f"choose from {', '.join(names)}",
        )
    mixed = next((name for name in chosen if any(part in f".{name}." for part in EXPERTS)), None)
    if mixed is not None:
        raise Refused(
            "lora.target_modules",
            f"{mixed} belongs to a mixture of experts and has no exact per-record gradient",
            "set lora.target_modules: attention",
        )
    return chosen


def _is_linear(name: str, module: nn.Module) -> bool:
    if name.split(".", maxsplit=1)[0] in HEADS or name.endswith(("lm_head", "pooler.dense")):
        return False
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _is_any_linear(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_linear(name, module)


def _matching(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Names that are one of `wanted` or end in one; * stands for anything."""
    return [name for name in names if any(fnmatchcase(f".{name}", f"*.{pattern}") for pattern in wanted)]


def _refuse_others(base: nn.Module, wanted: tuple[str, ...]) -> None:
    """Raises: Refused when a name matches something that holds weights and is not a linear layer."""
    kinds = {
        name: type(module).__name__
        for name, module in base.named_modules()
        if not _is_any_linear(name, module) and any(True for _ in module.parameters(recurse=False))
    }
    # Experts keep the weights of many layers in one parameter, which is no module.
    for name, _ in base.named_parameters():
        owner = name.rpartition(".")[0]
        if not _is_any_linear(owner, base.get_submodule(owner)):
            kinds[name] = "a bare parameter"
    for name in _matching(list(kinds), wanted):
        raise Refused(
            "lora.target_modules",
            f"{name} is {kinds[name]}, which has no exact per-record gradient here",
            "name linear layers only, for example target_modules: attention",
        )
