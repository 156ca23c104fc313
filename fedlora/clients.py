"""`fedlora client`: which clients a job's rule keeps leaving out, and suspending or reinstating one."""

import getpass
from typing import Annotated, Any

import typer

from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import emit_json, out, say, table
from fedlora.faults import Fault
from fedlora.jobs import AsJson, GatewayUrl, JobName

app = typer.Typer(no_args_is_help=True, help="Clients of a job: list, suspend, reinstate.")

ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="name of a client")]
Reason = Annotated[str, typer.Option(help="why; it is kept")]


@app.command("list")
def list_(job_id: JobName, gateway: GatewayUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Clients that were judged: score, how often left out, and who is suspended."""
    with GatewayClient(gateway) as client:
        found = client.clients_of(job_id)
    if as_json:
        emit_json(found)
        return
    drawn = table("client", "score", "left out", "of rounds", "asked")
    for one in found:
        score, count, rounds = one["score"], one["times_left_out"], one["rounds_judged"]
        asked = "no" if one["suspended"] else "yes"
        drawn.add_row(one["client_id"], f"{score:.2f}", str(count), str(rounds), asked)
    out.print(drawn)
    for one in found:
        if why := remark(one):
            say(f"{one['client_id']}: {why}")


@app.command()
def suspend(
    job_id: JobName, client_id: ClientName, reason: Reason, gateway: GatewayUrl = DEFAULT_URL
) -> None:
    """Ask a client no more in later rounds of a job, whatever its score."""
    with GatewayClient(gateway) as client:
        before = client.suspend(job_id, client_id, _stated(reason), _login())
    if before:
        say(f"{client_id} is {before}; nothing changes")
    else:
        say(f"{client_id}: not asked any more from the next round on; see `fedlora client list {job_id}`")


@app.command()
def reinstate(
    job_id: JobName, client_id: ClientName, reason: Reason, gateway: GatewayUrl = DEFAULT_URL
) -> None:
    """Ask a suspended client again; its score begins anew."""
    with GatewayClient(gateway) as client:
        before = client.reinstate(job_id, client_id, _stated(reason), _login())
    if before:
        say(f"{client_id}: asked again from the next round on, with a new score; it was {before}")
    else:
        say(f"{client_id} is not suspended in {job_id}, as far as is known; nothing changes")


def remark(one: dict[str, Any]) -> str:
    """Whether a client is asked, and what led to it, in one line."""
    last = one["changes"][-1] if one["changes"] else None
    if one["suspended"]:
        return str(one["suspended"])
    if one["spared"]:
        return str(one["spared"])
    if last is not None and last["to"] == "reinstated":
        return f"reinstated by {last['by']}: {last['reason']}"
    return f"the last time: {one['last_finding']}" if one["last_finding"] else ""


def _stated(reason: str) -> str:
    if not reason.strip():
        raise Fault("this is done with a reason", "say why with --reason")
    return reason


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        raise Fault("nobody is named", "set the variable USER to who asks for it") from None
