"""An administrator raises a limit from the command line, and the log keeps who did and why."""

import asyncio
import json

import pytest
import structlog.testing

from fedlora.embedded import Composition, federation
from shared.adapters.infrastructure import Endpoints
from shared.core.chain import GENESIS_SHA256, Line
from tests.command_line import fedlora


@pytest.fixture(autouse=True)
def _quiet():
    """The services log to the standard output that the command line's is taken from."""
    with structlog.testing.capture_logs():
        yield


async def limits(url, *arguments):
    return await asyncio.to_thread(fedlora, "limits", *arguments, "--gateway", url)


async def in_force(url):
    _, out, _ = await asyncio.to_thread(fedlora, "limits", "--gateway", url, "--json")
    return {(one["limit"], one["client"]): one for one in json.loads(out)}


async def until(url, key, value):
    async with asyncio.timeout(20):
        while True:
            found = (await in_force(url)).get(key)
            if found is not None and found["new"] == value:
                return found
            await asyncio.sleep(0.02)


async def test_a_raise_is_in_force_with_the_entry_that_set_it_and_survives_a_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "op")
    composition = Composition(Endpoints(home=tmp_path, telemetry="off"))
    async with federation(composition) as url:
        assert (await in_force(url))["client-epsilon", ""]["new"] == 10
        code, out, _ = await limits(
            url, "raise", "client-epsilon", "12", "--client", "alice", "--reason", "asked"
        )
        assert (code, out) == (
            0,
            "client-epsilon of alice: 10 -> 12 for later reservations; see `fedlora limits`\n",
        )
        found = await until(url, ("client-epsilon", "alice"), 12)
        assert (found["old"], found["by"], found["reason"]) == (10, "op", "asked")
    async with federation(composition) as url:
        assert (await in_force(url))["client-epsilon", "alice"] == found
        code, out, _ = await limits(url)
        assert code == 0
        entry = f"entry {found['sequence']} {found['entry_sha256'][:12]}, op: asked"
        assert f"client-epsilon of alice: 12 (epsilon of one client over all its jobs; {entry})\n" in out
        _, out, _ = await limits(url, "log")
    lines = [Line(**json.loads(line)) for line in out.splitlines()]
    assert [line.sequence for line in lines] == [1, 2, 3, 4, 5]
    previous = GENESIS_SHA256
    for line in lines:
        assert (line.previous_sha256, line.digest()) == (previous, line.entry_sha256)
        previous = line.entry_sha256
    assert lines[-1].body["reason"] == "asked"


async def test_a_raise_that_raises_nothing_is_refused_by_the_gateway(tmp_path):
    async with federation(Composition(Endpoints(home=tmp_path, telemetry="off"))) as url:
        code, out, err = await limits(url, "raise", "epsilon", "10", "--reason", "why not")
        assert (code, out) == (2, "")
        assert "epsilon is 10: a raise goes above that" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("client-epsilon", "12", "--reason", " "), "say why with --reason"),
        (("client-epsilon", "12"), "Missing option '--reason'"),
        (("epsilo", "12", "--reason", "x"), "name one of epsilon, delta"),
        (("delta", "1", "--reason", "x"), "give a number above 0 and below 1"),
    ],
)
def test_a_raise_without_a_reason_or_a_meaning_is_a_mistake(arguments, said):
    code, out, err = fedlora("limits", "raise", *arguments, "--gateway", "http://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert said in err
