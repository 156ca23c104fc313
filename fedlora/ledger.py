"""`fedlora ledger`: what each client has spent, the ledger as a file, and whether it is whole."""

from pathlib import Path
from typing import Annotated

import typer

from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import emit_json, out, say, table
from fedlora.faults import Fault
from fedlora.jobs import AsJson, GatewayUrl
from fedlora.ledger_file import parse_ledger, recompute, verify_chain

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
    """Check an export: nothing changed, moved, removed or added; recompute each client's epsilon."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{file} cannot be read: {error}", "give an export of `fedlora ledger export`") from None
    lines = parse_ledger(text, str(file))
    verdict = verify_chain(lines, str(file))
    recomputed = recompute(lines, str(file))
    if as_json:
        head = lines[-1].entry_sha256 if lines else ""
        spent = [{"job": job, "client": one, "epsilon": value} for (job, one), value in recomputed.items()]
        emit_json({"entries": len(lines), "head": head, "intact": True, "epsilon": spent})
        return
    say(f"{file}: {verdict}; epsilon recomputed from the mechanisms:")
    for (job, client), value in recomputed.items():
        say(f"{job} {client} {value:.3f}")
