"""A private PostgreSQL cluster."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import asyncpg

from tests.servers.process import answers, free_port, program, running, unprivileged_user


@contextmanager
def postgres_server() -> Iterator[str]:
    """Its SQLAlchemy URL without a database name, while it runs. No password, loopback only."""
    binaries = program("usr/lib/postgresql/*/bin")
    folder = Path(mkdtemp(prefix="fedlora-postgres-"))
    user = unprivileged_user()
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "fedlora", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            user=user,
            cwd=folder,
        )
        port = free_port()
        command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with running(command, lambda: answers(port), log=folder / "log", user=user):
            yield f"postgresql+asyncpg://fedlora@127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def execute(server_url: str, statement: str) -> None:
    """Run one statement outside a transaction in the maintenance database."""
    plain = server_url.replace("+asyncpg", "") + "/postgres"
    for _ in range(100):
        try:
            connection = await asyncpg.connect(plain)
            break
        except asyncpg.CannotConnectNowError:  # the port answers a moment before the server does
            continue
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
