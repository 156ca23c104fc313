"""The model card of an exported adapter: what it is, what it learnt from, how private and how good it is."""

from collections.abc import Iterable, Iterator, Sequence

import yaml

from services.gateway.budgets import BudgetView
from services.gateway.state import JobView
from shared.core.privacy.statements import Statement
from shared.job.specification import JobSpecification, Task

TAGS = ["lora", "federated-learning", "differential-privacy"]
PIPELINES = {Task.CAUSAL_LM: "text-generation", Task.SEQUENCE_CLASSIFICATION: "text-classification"}


def model_card(view: JobView, budgets: Iterable[BudgetView], said: Statement) -> str:
    """README.md in Markdown, with the front matter that model hubs read.

    It holds public values alone: settings, declared counts, and what noise was added to.
    """
    job = view.specification
    if job is None:
        raise ValueError("the job was not accepted")
    parts = [
        f"---\n{yaml.safe_dump(_front(job), sort_keys=False)}---",
        f"# {job.name}",
        f"A LoRA adapter of `{job.model.base}` for {job.model.task.value}, trained by fedlora as job "
        f"`{view.job_id}`.",
        _usage(view, job),
        "## Privacy",
        said.plain,
        said.formal,
        _spent(list(budgets)),
        "## Data",
        _data(view),
        "## Training",
        "\n".join(_settings(job)),
        *_metrics(view),
        "## Limitations",
        "The guarantee is about single records, under the assumptions above. What many records of a client "
        "have in common may be learnt, and is not hidden. Evaluate before use.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(job: JobSpecification) -> dict[str, object]:
    return {
        "base_model": job.model.base,
        "library_name": "peft",
        "pipeline_tag": PIPELINES[job.model.task],
        "tags": TAGS,
    }


def _usage(view: JobView, job: JobSpecification) -> str:
    if view.base is None:
        return "Load it with `PeftModel.from_pretrained`."
    return (
        f"`{job.lora.method}` changes weights of the base model too: `base_change.safetensors` holds what is "
        "added to each, over LoRA's scale. PEFT does not read it: use `fedlora merge`."
    )


def _spent(budgets: Sequence[BudgetView]) -> str:
    if not budgets:
        return ""
    most = max(budgets, key=lambda one: one.epsilon)
    return (
        f"Spent so far, by PLD: epsilon {most.epsilon:.3f} at delta {most.delta:g} by the client that spent "
        f"most, of {len(budgets)}."
    )


def _data(view: JobView) -> str:
    done = [one for one in view.rounds.values() if one.status == "completed"]
    clients = sorted({client for one in done for client in one.contributors})
    counts = [view.records[client] for client in clients if client in view.records]
    lines = [f"{len(clients)} clients, whose records never left them."]
    if counts:
        lines.append(
            f"They declared {sum(counts)} records in all, {min(counts)} to {max(counts)} each; nobody but "
            "the owner can check a declared count."
        )
    return " ".join(lines)


def _settings(job: JobSpecification) -> Iterator[str]:
    lora, training, aggregation, server = job.lora, job.training, job.aggregation, job.server
    yield f"- adapter: {lora.method}, rank {lora.rank}, on {lora.target_modules}"
    yield (
        f"- clients: {training.local_steps} steps of {training.optimizer} a round at "
        f"{training.learning_rate:g}, sampling rate {job.privacy.sampling_rate:g}, noise {job.privacy.noise}"
    )
    yield f"- sums: {aggregation.secure}, rule {aggregation.robust}"
    yield f"- server: {server.optimizer} at {server.learning_rate:g}, {job.rounds.count} rounds planned"


def _metrics(view: JobView) -> Iterator[str]:
    rounds = [one for _, one in sorted(view.rounds.items()) if one.metrics]
    if not rounds:
        return
    names = [name for name in rounds[-1].metrics if not name.endswith("_error")]
    yield "## Evaluation"
    yield "On records that clients held out, by noisy sums; +- is one standard error of that noise."
    head = f"| round | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}"
    rows = [
        f"| {one.number} | " + " | ".join(_figure(one.metrics, name) for name in names) + " |"
        for one in rounds
    ]
    yield "\n".join([head, *rows])


def _figure(metrics: dict[str, float], name: str) -> str:
    error = metrics.get(f"{name}_error")
    return f"{metrics.get(name, float('nan')):.4g}" + ("" if error is None else f" +- {error:.2g}")
