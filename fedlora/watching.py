"""Shows a job as it goes: bars for rounds and local steps on a terminal, plain lines otherwise."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fedlora.api_client import GatewayClient
from fedlora.console import out, say
from shared.events.judgements import Finding

REFRESH_S = 0.5
SHOWN_CLIENTS = 24
_STEP = re.compile(r"(\d+)\s*/\s*(\d+)")


def watch_job(client: GatewayClient, job_id: str) -> str:
    """Follow the job until it is over; how it ended."""
    client.job(job_id)  # an unknown job is said at once
    if out.is_terminal:
        return _with_bars(client, job_id)
    return _with_lines(client, job_id, say)


def describe(notice: dict[str, Any]) -> str:
    """One notice as a line for people; empty for those that only fill bars."""
    data, kind = notice["data"], notice["type"].rsplit(".", 1)[0]
    describer = _DESCRIBERS.get(kind)
    return describer(data) if describer else ""


def round_lines(one: dict[str, Any]) -> Iterator[str]:
    """A round as the gateway answers it: one line, and one for each client or group that counts less."""
    judged = f", judged by {one['rule']}" if one["rule"] not in ("", "mean") else ""
    because = f": {one['reason']}" if one["reason"] else ""
    yield (
        f"round {one['number']} {one['status']}{because}; {len(one['cohort'])} asked, "
        f"{len(one['contributors'])} in the update{judged}{_uploaded(one)}"
    )
    if one.get("metrics"):
        yield f"  held-out records: {figures(one['metrics'])}"
    for client, reason in one["left_out"].items():
        yield f"  without {client}: {reason}"
    for finding in map(Finding.model_validate, one["findings"]):
        if finding.weight:
            yield f"  {finding.subject} counts {finding.weight:.3g}: {finding.sentence}"


def figures(metrics: dict[str, float]) -> str:
    """What an evaluation released, each figure with the standard error that noise gives it."""
    named = (name for name in metrics if not name.endswith("_error"))
    return ", ".join(f"{name.replace('_', ' ')} {_figure(metrics, name)}" for name in named)


def _figure(metrics: dict[str, float], name: str) -> str:
    error = metrics.get(f"{name}_error")
    return f"{metrics[name]:.4g}" + ("" if error is None else f" +- {error:.2g}")


def _completed(data: dict[str, Any]) -> str:
    clients = len(data["contributors"])
    if data.get("kind") == "evaluate":
        return (
            f"round {data['number']}: {clients} clients evaluate: {figures(data['metrics'])}{_left_out(data)}"
        )
    return f"round {data['number']}: {clients} updates, norm {data['update_norm']:.4g}{_left_out(data)}"


def _uploaded(one: dict[str, Any]) -> str:
    total, clients = one["uploaded_bytes"], len(one["contributors"])
    if not total:
        return ""
    mean = f", {decimal(total // clients)} on average for each client in it" if clients else ""
    return f"; {decimal(total)} uploaded{mean}"


def _with_lines(client: GatewayClient, job_id: str, write: Callable[[str], None]) -> str:
    outcome = ""
    for batch in client.follow(job_id):
        for notice in batch:
            line = describe(notice)
            if line:
                write(f"{notice['at'][11:19]} {line}")
            outcome = _outcome(notice) or outcome
    return outcome


def _with_bars(client: GatewayClient, job_id: str) -> str:
    outcome = ""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True) as progress:
        rounds = progress.add_task("rounds", total=None)
        bars: dict[str, TaskID] = {}
        for batch in client.follow(job_id, REFRESH_S):
            for notice in batch:
                line = describe(notice)
                if line:
                    progress.console.print(f"{notice['at'][11:19]} {line}", markup=False)
                _advance(progress, rounds, notice)
                outcome = _outcome(notice) or outcome
            _show_steps(progress, bars, client.clients())
    return outcome


def _advance(progress: Progress, rounds: TaskID, notice: dict[str, Any]) -> None:
    if notice["type"] == "job.accepted.v1":
        progress.update(rounds, total=notice["data"]["specification"]["rounds"]["count"])
    if notice["type"] == "round.completed.v1" and notice["data"].get("kind") != "evaluate":
        progress.advance(rounds)


def _show_steps(progress: Progress, bars: dict[str, TaskID], clients: list[dict[str, Any]]) -> None:
    """One bar for each worker that trains; it goes when the worker does something else."""
    training = {
        one["client_id"]: (one["activity"], step)
        for one in clients
        if one["present"] and (step := _STEP.search(one["activity"]))
    }
    for client_id in list(bars):
        if client_id not in training:
            progress.remove_task(bars.pop(client_id))
    for client_id, (activity, step) in list(training.items())[:SHOWN_CLIENTS]:
        label = f"  {client_id} {activity[: step.start()].strip()}"
        if client_id not in bars:
            bars[client_id] = progress.add_task(label)
        done, total = int(step[1]), int(step[2])
        progress.update(bars[client_id], description=label, completed=done, total=total)


def _outcome(notice: dict[str, Any]) -> str:
    if notice["type"] == "job.refused.v1":
        return "refused"
    return str(notice["data"]["outcome"]) if notice["type"] == "job.ended.v1" else ""


def _left_out(data: dict[str, Any]) -> str:
    left_out = "; ".join(f"{one['client_id']}: {one['reason']}" for one in data.get("left_out", ()))
    return f" (without {left_out})" if left_out else ""


def _summed(specification: dict[str, Any]) -> str:
    protocol = specification.get("aggregation", {}).get("secure", "none")
    if protocol == "none":
        return "secure: none, the aggregation service READS EACH UPDATE"
    return f"updates are summed unseen by {protocol}"


_DESCRIBERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "job.accepted": lambda data: (
        f"accepted, noise multiplier {data['noise_multiplier']:.4g}; "
        + _summed(data.get("specification") or {})
    ),
    "job.refused": lambda data: f"refused: {data['field']}: {data['reason']}; {data['remedy']}",
    "job.ended": lambda data: (
        f"{data['outcome']} after {data['rounds_completed']} rounds"
        + (f": {data['reason']}" if data["reason"] else "")
    ),
    "round.opened": lambda data: (
        f"round {data['number']}: {len(data['cohort'])} clients train{_left_out(data)}"
    ),
    "round.completed": _completed,
    "round.aborted": lambda data: f"round {data['number']} aborted: {data['reason']}",
    "job.waiting": lambda data: f"round {data['number']} waits: {data['reason']}",
    "client.suspended": lambda data: f"{data['client_id']} is {data['standing']['suspended']}",
    "client.reinstated": lambda data: (
        f"{data['client_id']} is asked again, says {data['reinstated_by']}: {data['reason']}"
    ),
    "client.declined": lambda data: f"{data['client_id']} takes no part: {data['reason']}",
    "budget.running-low": lambda data: (
        f"{data['client_id']} has spent epsilon {data['epsilon']:.2f} of {data['epsilon_limit']:g}"
    ),
}
