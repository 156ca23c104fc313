"""`fedlora up`: every service and the gateway, in this process or each in one of its own."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedlora.console import say
from fedlora.embedded import Composition, federation
from fedlora.faults import Fault
from fedlora.processes import Child, keep_running
from fedlora.topology import prepare
from fedlora.workers import check_data, check_name, require_worker_packages, worker_environment
from shared.adapters.infrastructure import Endpoints
from shared.adapters.telemetry import configure_logging

SERVICES = ("coordinator", "accountant", "secure_aggregation", "robust_aggregator", "gateway")
MEMORY_BUS = "memory://"


def up(  # noqa: PLR0913, PLR0917 - each is an option of the command
    bus: Annotated[
        str, typer.Option(envvar="FEDLORA_BUS", help="amqp://...; default: in memory")
    ] = MEMORY_BUS,
    database: Annotated[
        str, typer.Option(envvar="FEDLORA_DATABASE", help="postgresql+asyncpg://..., or SQLite")
    ] = "",
    blobs: Annotated[str, typer.Option(envvar="FEDLORA_BLOBS", help="s3://..., or a folder")] = "",
    home: Annotated[Path, typer.Option(envvar="FEDLORA_HOME", help="where everything is kept")] = Path(
        "~/.fedlora"
    ),
    worker: Annotated[list[str] | None, typer.Option(help="NAME=FILE, a client in this federation")] = None,
    processes: Annotated[bool, typer.Option("--processes", help="one for each service")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the gateway; 0 takes a free one")] = 8480,
) -> None:
    """Run a federation until SIGTERM or Ctrl-C."""
    workers = parse_workers(worker or [])
    if workers:
        require_worker_packages()
    endpoints = Endpoints(home=home, bus=bus, database=database, blobs=blobs)
    if not processes:
        configure_logging("fedlora")
        asyncio.run(_embedded(Composition(endpoints, port, workers)))
        return
    if bus == MEMORY_BUS:
        raise Fault(
            "processes share nothing but a broker", "name one with --bus amqp://..., or leave --processes out"
        )
    prepare(endpoints)
    asyncio.run(_processes(children(endpoints, workers, port)))


def parse_workers(given: list[str]) -> dict[str, Path]:
    """NAME=FILE, each. Raises: Fault for a bad name, a missing file or a name given twice."""
    workers: dict[str, Path] = {}
    for one in given:
        name, equals, file = one.partition("=")
        if not equals:
            raise Fault(f"--worker {one} names no file", "write --worker NAME=FILE")
        check_name(name)
        if name in workers:
            raise Fault(f"--worker {name} is given twice", "give each client one name")
        workers[name] = check_data(Path(file))
    return workers


def children(
    endpoints: Endpoints, workers: dict[str, Path], port: int, logs: Path | None = None
) -> list[Child]:
    """Every service and worker as a child process; output goes to files in `logs` if given."""
    common = {
        "FEDLORA_HOME": str(endpoints.folder),
        "FEDLORA_BUS": endpoints.bus,
        "FEDLORA_DATABASE": endpoints.database_url,
        "FEDLORA_BLOBS": endpoints.blobs_url,
        "FEDLORA_TRACES_FILE": str(endpoints.traces_path),
        "FEDLORA_GATEWAY_PORT": str(port),
        "FEDLORA_SECURE_AGGREGATION_KEY_FILE": str(endpoints.folder / "aggregation.key"),
    }
    endpoints.folder.mkdir(parents=True, exist_ok=True)
    running = [
        Child(
            name,
            (sys.executable, "-m", f"services.{name}"),
            common,
            logs / f"{name}.log" if logs else None,
        )
        for name in SERVICES
    ]
    for name, data in workers.items():
        home = endpoints.folder / "workers" / name
        environment = worker_environment(
            name=name, data=data, bus=endpoints.bus, blobs=endpoints.blobs_url, home=home
        )
        running.append(
            Child(
                name,
                (sys.executable, "-m", "services.client"),
                {**environment, "FEDLORA_TRACES_FILE": str(endpoints.traces_path), "FEDLORA_DATABASE": ""},
                logs / f"{name}.log" if logs else None,
            )
        )
    return running


async def _embedded(composition: Composition) -> None:
    stop = _stop_on_signals()
    async with federation(composition) as url:
        say(f"fedlora is up at {url} (process {os.getpid()}); stop it with Ctrl-C")
        await stop.wait()


async def _processes(running: list[Child]) -> None:
    stop = _stop_on_signals()
    say(f"{len(running)} processes; stop them with Ctrl-C")
    await keep_running(running, stop)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
