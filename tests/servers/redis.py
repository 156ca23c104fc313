"""A private Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers.process import answers, free_port, program, running


@contextmanager
def redis_server() -> Iterator[str]:
    """Its URL, while it runs."""
    binary = program("usr/bin/redis-server", "usr/bin/valkey-server")
    with TemporaryDirectory(prefix="fedlora-redis-") as folder:
        port = free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with running(command, lambda: answers(port), log=Path(folder) / "log"):
            yield f"redis://127.0.0.1:{port}/0"
