"""`fedlora worker`: one client, and how a worker is composed beside an embedded federation."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora.faults import Fault
from services.client import __main__ as client
from services.client.settings import ClientSettings
from shared.adapters.infrastructure import Endpoints, Infrastructure
from shared.service import Service

CLIENT_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def worker_environment(  # noqa: PLR0913 - keyword-only, each a variable
    *, name: str, data: Path, bus: str, blobs: str = "", policy: Path | None = None, home: Path | None = None
) -> dict[str, str]:
    """The variables that `python -m services.client` reads."""
    environment = {
        "FEDLORA_BUS": bus,
        "FEDLORA_CLIENT_CLIENT_ID": name,
        "FEDLORA_CLIENT_DATA": str(data),
    }
    if blobs:
        environment["FEDLORA_BLOBS"] = blobs
    if policy is not None:
        environment["FEDLORA_CLIENT_POLICY_FILE"] = str(policy)
    if home is not None:
        environment["FEDLORA_HOME"] = environment["FEDLORA_CLIENT_HOME"] = str(home)
    return environment


async def build_worker(
    name: str, data: Path, infrastructure: Infrastructure, endpoints: Endpoints
) -> Service[Any]:
    """A client for this process's bus, with its key and its ledger in `endpoints.home`."""
    settings = ClientSettings(client_id=name, home=endpoints.folder, data=data)
    return await client.build(infrastructure, settings, client.trainer_for(settings, infrastructure))


def check_data(data: Path) -> Path:
    """The absolute path. Raises: Fault when there is no such file."""
    if not data.is_file():
        raise Fault(f"{data} is not a file", "name a JSONL, CSV, Parquet or text file")
    return data.resolve()


def require_worker_packages() -> None:
    """Raises: Fault when what a worker trains with is not installed."""
    missing = [name for name in ("torch", "transformers", "peft", "opacus") if find_spec(name) is None]
    if missing:
        raise Fault(f"a worker needs {', '.join(missing)}", "run: pip install 'fedlora[worker]'")


def worker(  # noqa: PLR0913, PLR0917 - each is an option of the command
    data: Annotated[Path, typer.Option(help="JSONL, CSV, Parquet or plain text; never leaves this machine")],
    bus: Annotated[str, typer.Option(help="amqp:// or amqps:// address of the federation's broker")],
    name: Annotated[str, typer.Option(help="this client's id: lower-case letters, digits, - and _")],
    blobs: Annotated[str, typer.Option(help="where adapters are: a shared folder, or s3://...")] = "",
    policy: Annotated[Path | None, typer.Option(help="worker.toml: what this owner allows")] = None,
    home: Annotated[Path | None, typer.Option(help="where the key and the ledger are kept")] = None,
    max_rank: Annotated[int | None, typer.Option(min=1, help="of an adapter that fits this machine")] = None,
) -> None:
    """Take part with this machine's data until SIGTERM."""
    check_name(name)
    if not bus.startswith(("amqp://", "amqps://")):
        raise Fault(f"{bus} is not a broker's address", "give one like amqps://host:5671")
    if policy is not None and not policy.is_file():
        raise Fault(f"{policy} is not a file", "name the policy file, or leave --policy out")
    require_worker_packages()
    home = home or Path("~/.fedlora/workers").expanduser() / name
    environment = worker_environment(
        name=name, data=check_data(data), bus=bus, blobs=blobs, policy=policy, home=home
    )
    if max_rank is not None:
        environment["FEDLORA_CLIENT_MAX_RANK"] = str(max_rank)
    os.execve(  # noqa: S606 - this interpreter, fixed arguments; the worker gets the signals itself
        sys.executable, [sys.executable, "-m", "services.client"], {**os.environ, **environment}
    )


def check_name(name: str) -> None:
    """Raises: Fault when `name` cannot be a client's id."""
    if not re.match(CLIENT_NAME, name):
        raise Fault(f"{name!r} cannot be a client's name", "use lower-case letters, digits, - and _")
