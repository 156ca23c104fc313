"""Requests from party to party: TLS 1.3, both certificates of one authority and with the party's name.

A frame is 4 bytes of length, big-endian, and msgpack. A connection carries one request at a time, and many
one after another. Whoever asks may ask again, so requests are idempotent.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog

from services.secure_aggregation.parties.certificates import name_of
from shared.adapters.certificates import Identity
from shared.core.secagg.mpc3.terms import PARTIES
from shared.errors import FedloraError, Refused, Rejected, Stale, Unavailable
from shared.events.base import pack, unpack

LENGTH_BYTES, MOST_FRAME_BYTES = 4, 2**30
CONNECT_S, ANSWER_S, IDLE_S = 5.0, 30.0, 60.0
_ERRORS: Mapping[str, type[FedloraError]] = {"stale": Stale, "unavailable": Unavailable}
Serve = Callable[[int, str, Any], Awaitable[Any]]
log = structlog.get_logger()


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float = 0.0  # on the event loop's clock

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await self.writer.wait_closed()


class Links:
    """To the other parties, under one party's identity. Connections are kept and used again.

    Args:
        identity: files of certificate, key and authority.
        addresses: host and port of each party that can be asked.
    """

    def __init__(self, identity: Identity, addresses: Mapping[int, tuple[str, int]]) -> None:
        self._context = _context(identity, ssl.PROTOCOL_TLS_CLIENT)
        self._addresses = dict(addresses)
        self._idle: dict[int, list[_Connection]] = {party: [] for party in addresses}

    async def ask(self, party: int, kind: str, body: Any = None, wait_s: float = 0.0) -> Any:  # noqa: ANN401 - msgpack
        """Send one request and return its answer; `wait_s` is how long the other may let it wait.

        Raises: Unavailable when the party is away, is not the one that its name says, or asks to be asked
            again; Rejected or Stale as it answers.
        """
        if party not in self._addresses:
            raise Rejected(f"no address of party {party} is set")
        known = await self._idle_one(party)
        try:
            outcome, content = await self._exchange(party, known, [kind, body], wait_s)
        except (OSError, TimeoutError, EOFError, ValueError, TypeError) as error:
            raise Unavailable(f"party {party} gave no answer: {_plain(error)}") from None
        if outcome != "ok":
            raise _ERRORS.get(outcome, Rejected)(f"party {party}: {content}")
        return content

    async def aclose(self) -> None:
        """Close what is kept."""
        for party in self._idle:
            while (connection := await self._idle_one(party)) is not None:
                await connection.close()

    async def _exchange(self, party: int, known: _Connection | None, request: Any, wait_s: float) -> Any:  # noqa: ANN401
        if known is not None:
            try:
                return await self._exchange_on(party, known, request, wait_s)
            except TimeoutError:
                raise
            except (OSError, EOFError):  # the party was restarted, perhaps: a new connection tells
                log.info("a connection was lost", party=party)
        return await self._exchange_on(party, await self._connect(party), request, wait_s)

    async def _exchange_on(self, party: int, connection: _Connection, request: Any, wait_s: float) -> Any:  # noqa: ANN401
        try:
            async with asyncio.timeout(ANSWER_S + wait_s):
                await _send(connection.writer, request)
                answer = await _receive(connection.reader)
        except BaseException:  # of a request that was given up, the answer may still come
            connection.writer.transport.abort()
            raise
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle[party].append(connection)
        return answer

    async def _connect(self, party: int) -> _Connection:
        host, port = self._addresses[party]
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=self._context, server_hostname=name_of(party)
                )
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"party {party} is away: {_plain(error)}") from None
        return _Connection(reader, writer)

    async def _idle_one(self, party: int) -> _Connection | None:
        """The one used last, of those that nobody on the way has forgotten yet."""
        idle, now = self._idle[party], asyncio.get_running_loop().time()
        while idle and now - idle[0].idle_since > IDLE_S:
            await idle.pop(0).close()
        return idle.pop() if idle else None


@asynccontextmanager
async def serving(
    index: int, identity: Identity, listening: socket.socket, serve: Serve
) -> AsyncIterator[None]:
    """Answer the other parties while the block runs: `serve(party, kind, body)` by an answer or an error."""
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        try:
            sender = _sender(writer, index)
            if sender is None:
                log.warning("a stranger asked", party=index)
                return
            # Asyncio sets this only where a socket was made with a protocol number, as a bound one is not.
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (request := await _next(reader)) is not None:
                kind, body = request
                await _send(writer, await _answered(serve, sender, str(kind), body))
        except (OSError, EOFError, ValueError, TypeError, Rejected) as error:
            log.info("a request was cut short", party=index, reason=_plain(error))
        except asyncio.CancelledError:
            return  # at the end: asyncio would log a cancelled connection as an error
        finally:
            writer.close()

    context = _context(identity, ssl.PROTOCOL_TLS_SERVER)
    server = await asyncio.start_server(connected, sock=listening, ssl=context)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answered(serve: Serve, sender: int, kind: str, body: Any) -> list[Any]:  # noqa: ANN401 - msgpack
    try:
        return ["ok", await serve(sender, kind, body)]
    except Stale as error:
        return ["stale", str(error)]
    except Unavailable as error:
        return ["unavailable", str(error)]
    except FedloraError as error:
        return ["rejected", str(error)]
    except Exception as error:
        log.exception("request failed", sender=sender, kind=kind)
        return ["unavailable", f"it failed: {type(error).__name__}"]


def _context(identity: Identity, protocol: "ssl._SSLMethod") -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=identity.authority)
        context.load_cert_chain(identity.certificate, identity.key)
    except OSError as error:  # ssl.SSLError is one
        raise Refused(
            "FEDLORA_SECURE_AGGREGATION_PARTY_CERTIFICATE",
            f"certificate, key or authority cannot be used: {_plain(error)}",
            "name PEM files that this process may read, and a key that fits",
        ) from None
    return context


def _sender(writer: asyncio.StreamWriter, index: int) -> int | None:
    """Which other party the certificate names, if one."""
    certificate = writer.get_extra_info("peercert") or {}
    names = {name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"}
    found = [party for party in range(PARTIES) if party != index and names == {name_of(party)}]
    return found[0] if found else None


async def _send(writer: asyncio.StreamWriter, value: Any) -> None:  # noqa: ANN401 - msgpack
    content = pack(value)
    writer.writelines((len(content).to_bytes(LENGTH_BYTES, "big"), content))
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> Any:  # noqa: ANN401 - msgpack
    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if size > MOST_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    return unpack(await reader.readexactly(size))


async def _next(reader: asyncio.StreamReader) -> Any:  # noqa: ANN401 - msgpack
    """A frame, or None where the connection ended after the one before."""
    try:
        return await _receive(reader)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None


def _plain(error: BaseException) -> str:
    return str(error) or type(error).__name__
