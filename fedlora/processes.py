"""Child processes that are kept alive: restarted with backoff when they die, stopped by SIGTERM."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedlora.console import complain

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
HEALTHY_S = 30.0  # one that lived this long starts again without backoff
GRACE_S = 30.0  # between SIGTERM and SIGKILL
MISTAKE_EXIT = 2  # wrong settings: starting again cannot help


@dataclass(frozen=True)
class Child:
    """A command to keep running.

    Attributes:
        environment: added to this process's own.
        log: where its output goes; this process's own output when None.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None


async def keep_running(children: Sequence[Child], stop: asyncio.Event) -> dict[str, int]:
    """Run all of them until `stop` is set; how each ended, by name."""
    codes = await asyncio.gather(*(_keep(child, stop) for child in children))
    return {child.name: code for child, code in zip(children, codes, strict=True)}


async def _keep(child: Child, stop: asyncio.Event) -> int:
    loop = asyncio.get_running_loop()
    backoff_s = FIRST_BACKOFF_S
    code = 0
    while not stop.is_set():
        began = loop.time()
        code = await _run_once(child, stop)
        if stop.is_set() or code == MISTAKE_EXIT:
            break
        backoff_s = FIRST_BACKOFF_S if loop.time() - began > HEALTHY_S else backoff_s
        complain(f"{child.name} ended with {code}; starting it again in {backoff_s:g} s")
        try:
            await asyncio.wait_for(stop.wait(), backoff_s)
        except TimeoutError:
            backoff_s = min(LONGEST_BACKOFF_S, backoff_s * 2)
    return code


async def _run_once(child: Child, stop: asyncio.Event) -> int:
    process = await _start(child)
    ended = asyncio.create_task(process.wait())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(ended), GRACE_S)
        except TimeoutError:
            complain(f"{child.name} did not stop within {GRACE_S:g} s; killing it")
            process.kill()
            await ended
    return process.returncode or 0


async def _start(child: Child) -> asyncio.subprocess.Process:
    environment = {**os.environ, **child.environment}
    if child.log is None:
        return await asyncio.create_subprocess_exec(
            *child.command, env=environment, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
    child.log.parent.mkdir(parents=True, exist_ok=True)
    with child.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *child.command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
