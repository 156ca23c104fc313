"""`fedlora limits`: which limits hold, what set each, and raising one with a reason."""

import getpass
from typing import Annotated

import typer

from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import emit_json, say
from fedlora.faults import Fault
from fedlora.jobs import AsJson, GatewayUrl
from shared.core.privacy.limits import NAMES, UPPER, possible

app = typer.Typer(invoke_without_command=True, help="The privacy limits: show, raise, log.")


@app.callback()
def show(context: typer.Context, gateway: GatewayUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Each limit in force, with the entry of the log that set it."""
    if context.invoked_subcommand is not None:
        return
    with GatewayClient(gateway) as client:
        found = client.limits()
    if as_json:
        emit_json(found)
        return
    for one in found:
        whose = f" of {one['client']}" if one["client"] else ""
        entry = f"entry {one['sequence']} {one['entry_sha256'][:12]}"
        say(
            f"{one['limit']}{whose}: {one['new']:g} ({one['meaning']}; {entry}, {one['by']}: {one['reason']})"
        )


@app.command("raise")
def raise_(
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help=", ".join(NAMES))],
    value: Annotated[float, typer.Argument(help="the new value, above the old one")],
    reason: Annotated[str, typer.Option(help="why; the log keeps it")],
    client_id: Annotated[str, typer.Option("--client", help="for one client only")] = "",
    gateway: GatewayUrl = DEFAULT_URL,
) -> None:
    """Raise a limit for later reservations. Who, what and why go into the append-only log."""
    name = next((one for one in NAMES if one == limit), None)
    if name is None:
        raise Fault(f"there is no limit {limit}", f"name one of {', '.join(NAMES)}")
    if not possible(name, value):
        below = f" and below {UPPER[name]:g}" if name in UPPER else ""
        raise Fault(f"{limit} cannot be {value:g}", f"give a number above 0{below}")
    if not reason.strip():
        raise Fault("a limit is raised with a reason", "say why with --reason")
    with GatewayClient(gateway) as client:
        raised = client.raise_limit(name, value, client_id, reason, _login())
    whose = f" of {client_id}" if client_id else ""
    say(
        f"{limit}{whose}: {raised['old']:g} -> {raised['new']:g} for later reservations; see `fedlora limits`"
    )


@app.command()
def log(gateway: GatewayUrl = DEFAULT_URL) -> None:
    """Print every change as JSON lines, each hash chained to the one before."""
    with GatewayClient(gateway) as client:
        print(client.limits_log(), end="")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        raise Fault("nobody is named", "set the variable USER to who raises the limit") from None
