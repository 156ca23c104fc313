"""`fedlora ca`: a federation's own certificate authority, and what it has signed."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedlora.console import emit_json, say
from fedlora.faults import Fault
from shared.adapters.certificates import AuthorityFolder
from shared.adapters.clock import SystemClock
from shared.core.identity.names import Claims, Kind
from shared.errors import Rejected

PASSPHRASE = "FEDLORA_CA_PASSPHRASE"  # noqa: S105 - the name of the variable
MOST_DAYS = 825
app = typer.Typer(no_args_is_help=True, help="The federation's certificate authority.")
Folder = Annotated[Path, typer.Option("--ca", help=f"the authority's folder; {PASSPHRASE} opens its key")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that is made")],
    name: Annotated[str, typer.Option(help="what people call the federation")] = "fedlora",
) -> None:
    """Make an authority. FEDLORA_CA_PASSPHRASE, where it is set, encrypts its key."""
    made = AuthorityFolder.create(folder, name, SystemClock().now(), os.environ.get(PASSPHRASE, ""))
    say(f"{made.file}: give it to everyone; its fingerprint is {_fingerprint(made.authority.certificate)}")
    say(f"{folder / 'authority.key'}: whoever has it can be anyone: keep it, and a copy, where nobody goes")


@app.command()
def issue(
    name: Annotated[str, typer.Argument(metavar="SERVICE", help="such as broker, coordinator, gateway")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where key and certificate are put")],
    ca: Folder,
    host: Annotated[list[str] | None, typer.Option(help="where it is reached: a name or an address")] = None,
    days: Annotated[int, typer.Option(help="valid for so long", min=1, max=MOST_DAYS)] = 90,
) -> None:
    """Key and certificate of a service. A client makes its own key: `fedlora worker enrol`."""
    authority = AuthorityFolder.open(ca, os.environ.get(PASSPHRASE, ""))
    try:
        claims = Claims(name, Kind.SERVICE, hosts=tuple(host or ()))
    except Rejected as error:
        raise Fault(str(error), "name another") from None
    made = authority.make(claims, out, SystemClock().now(), timedelta(days=days))
    say(f"{made.certificate} and {made.key}: valid for {days} days")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="a certificate, PEM")],
    as_json: Annotated[bool, typer.Option("--json", help="for a program")] = False,
) -> None:
    """Who holds a certificate, for what, and until when."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        raise Fault(f"{file} is no certificate", "name a PEM file") from None
    found = _described(certificate)
    if as_json:
        emit_json(found)
        return
    for key, value in found.items():
        say(f"{key}: {value}")


def _described(certificate: x509.Certificate) -> dict[str, Any]:
    try:
        claims = Claims.read(certificate)
        whose = {"name": claims.name, "kind": str(claims.kind), "hosts": list(claims.hosts)}
        whose |= {"verify_key": claims.verify_key.hex()} if claims.verify_key else {}
    except Rejected:
        whose = {"name": certificate.subject.rfc4514_string(), "kind": "authority or a stranger"}
    return {
        **whose,
        "serial": f"{certificate.serial_number:x}",
        "until": certificate.not_valid_after_utc.isoformat(),
        "fingerprint": _fingerprint(certificate),
    }


def _fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, as OpenSSL prints it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
