"""`fedlora ledger`: what each client has spent, the ledger as a file, and whether it is whole."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import emit_json, out, say, table
from fedlora.faults import EXIT_TROUBLE, Fault
from fedlora.jobs import AsJson, GatewayUrl
from shared.core.privacy.accountants import FIGURE_TOLERANCE
from shared.core.privacy.ledger import LedgerVerdict
from shared.core.privacy.ledger import verify as verify_ledger

app = typer.Typer(no_args_is_help=True, help="The privacy ledger: show, export, verify.")


@app.command()
def show(
    job_id: Annotated[str, typer.Option("--job", help="one job only")] = "",
    gateway: GatewayUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """What each client has spent, job by job."""
    with GatewayClient(gateway) as client:
        names = [job_id] if job_id else [job["job_id"] for job in client.jobs()]
        spent = [{"job_id": name, **budget} for name in names for budget in client.job(name)["budgets"]]
    if as_json:
        emit_json(spent)
        return
    drawn = table("job", "client", "epsilon (PLD)", "epsilon (RDP)", "limit", "delta", "entries")
    for one in spent:
        drawn.add_row(
            one["job_id"],
            one["client_id"],
            f"{one['epsilon']:.3f}",
            f"{one['epsilon_rdp']:.3f}",
            f"{one['epsilon_limit']:g}",
            f"{one['delta']:g}",
            str(len(one["entries"])),
        )
    out.print(drawn)


@app.command()
def export(
    job_id: Annotated[str, typer.Option("--job", help="one job's entries; its chain then has gaps")] = "",
    gateway: GatewayUrl = DEFAULT_URL,
) -> None:
    """Print the ledger as JSON lines."""
    with GatewayClient(gateway) as client:
        print(client.ledger(job_id), end="")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="an export of the whole ledger")], as_json: AsJson = False
) -> None:
    """Check an export: nothing changed, moved, removed or added; recompute each figure with dp-accounting.

    Lines cut off the end cannot be seen: compare the head with one seen before.
    """
    verdict = verify_ledger(_content(file))
    if as_json:
        emit_json(_as_json(verdict))
    require_intact(verdict, str(file))
    if as_json:
        return
    say(f"{file}: {in_one_line(verdict)}")
    say(f"head {verdict.head_sha256}")
    say(f"every stated epsilon recomputed with dp-accounting alone, within {FIGURE_TOLERANCE:g}")
    drawn = table("job", "client", "epsilon (PLD)", "epsilon (RDP)", "limit", "delta")
    for one in verdict.spending:
        figures = f"{one.epsilon():.3f}", f"{one.epsilon('rdp'):.3f}", f"{one.epsilon_limit:g}"
        drawn.add_row(one.job_id, one.client_id, *figures, f"{one.delta:g}")
    if verdict.spending:
        out.print(drawn)


def require_intact(verdict: LedgerVerdict, source: str) -> None:
    """Raises: Fault that names the first line at fault and counts the others."""
    if not verdict.faults:
        return
    first, *others = verdict.faults
    more = f" ({len(others)} more at fault)" if others else ""
    raise Fault(f"{source}: line {first.line}: {first.reason}{more}", "", EXIT_TROUBLE)


def in_one_line(verdict: LedgerVerdict) -> str:
    """What verifying found of an intact ledger."""
    head = f", head {verdict.head_sha256[:16]}" if verdict.entries else ""
    return f"{verdict.entries} entries, chain intact{head}"


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Fault(f"{file} cannot be read: {error}", "give an export of `fedlora ledger export`") from None


def _as_json(verdict: LedgerVerdict) -> dict[str, Any]:
    return {
        "entries": verdict.entries,
        "head": verdict.head_sha256,
        "intact": not verdict.faults,
        "faults": [{"line": one.line, "reason": one.reason} for one in verdict.faults],
        "tolerance": FIGURE_TOLERANCE,
        "epsilon": [
            {
                "job": one.job_id,
                "client": one.client_id,
                "epsilon": one.epsilon(),
                "epsilon_rdp": one.epsilon("rdp"),
                "epsilon_limit": one.epsilon_limit,
                "delta": one.delta,
            }
            for one in verdict.spending
        ],
    }
