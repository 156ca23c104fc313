"""A server process of ours: start, wait until it answers, stop by pid."""

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".servers"  # where `python -m tests.servers` unpacks packages when it is not root


class ServerMissing(RuntimeError):
    """The server's program is not on this machine; `python -m tests.servers` installs it."""


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(*candidates: str) -> Path:
    """The first of `candidates` (glob patterns below /) on this machine or unpacked beside the tests."""
    for base in (Path("/"), UNPACKED):
        for pattern in candidates:
            found = sorted(base.glob(pattern))
            if found:
                return found[-1]
    raise ServerMissing(f"none of {', '.join(candidates)}; run: python -m tests.servers")


def unprivileged_user() -> str | None:
    """Whom to run as what refuses to run as root; None when we are not root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def answers(port: int) -> bool:
    """Whether something accepts connections on the loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(
    command: Sequence[str | Path],
    ready: Callable[[], bool],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    patience_s: float = 90,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in a session of its own until the block ends.

    Raises: RuntimeError with the end of the log when it dies or is not ready in time.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + patience_s
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} is not ready:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        stop(process, stop_signal)


def stop(process: subprocess.Popen[bytes], first: signal.Signals = signal.SIGTERM) -> None:
    """Ask the process to end; after 20 s end its session, which is ours."""
    if process.poll() is None:
        process.send_signal(first)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
