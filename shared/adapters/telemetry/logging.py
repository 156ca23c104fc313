"""Structured logs: JSON lines on stderr with trace, round and client ids, and never a payload or key."""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import PurePath
from typing import Any, TextIO
from uuid import UUID

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.adapters.telemetry.subject import subject_of
from shared.events.base import Envelope

_SECRET_WORDS = frozenset(
    ["body", "ciphertext", "key", "keys", "password", "payload", "payloads", "secret", "share", "shares"]
    + ["token", "tokens"]
)
_PUBLIC_NAMES = frozenset({"routing_key"})
_BYTES_LITERAL = re.compile(r"""\bb'(?:[^'\\]|\\.)*'|\bb"(?:[^"\\]|\\.)*\"""")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)(?=@)")
_PLAIN = (str, int, float, bool, type(None), datetime, date, timedelta, UUID, PurePath, BaseException)
_CHATTY = ("aio_pika", "aiormq", "httpx", "httpcore", "urllib3", "sqlalchemy", "uvicorn.access")
_TEXT_FIELDS = ("event", "exception", "stack")


def configure_logging(
    service_name: str, *, level: str = "INFO", stream: TextIO | None = None, human: bool | None = None
) -> None:
    """Send structlog's and the standard library's records to `stream` (stderr).

    Args:
        service_name: of lines logged outside any message; `bind` names the service of the others.
        level: the least severe that is written.
        stream: where to; stderr by default.
        human: coloured lines for people; by default when the stream is a terminal, else JSON.
    """
    stream = stream or sys.stderr
    human = stream.isatty() if human is None else human
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        _Defaults(service_name),
        add_trace_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # Plain tracebacks: the pretty ones print local variables, and those hold payloads.
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    last: Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if human
        else structlog.processors.JSONRenderer(default=str)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


@contextmanager
def bind(service_name: str, envelope: Envelope) -> Iterator[None]:
    """Lines logged inside carry the service, and the job, round and client of `envelope`."""
    ids = {"service": service_name, "message": envelope.type_name, **subject_of(envelope)}
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def add_trace_ids(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Add `trace_id` and `span_id` of the span in progress, in hex."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event_dict["trace_id"] = f"{context.trace_id:032x}"
        event_dict["span_id"] = f"{context.span_id:016x}"
    return event_dict


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Replace bytes, objects that may hold some, and whatever is named like a secret."""
    for name, value in event_dict.items():
        if name.startswith("_"):
            continue  # structlog's own: the record, the exception info
        event_dict[name] = _strip(value) if name in _TEXT_FIELDS else _redacted(name, value)
    return event_dict


class _Defaults:
    """Adds the process's service name where no message names one."""

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name

    def __call__(self, _logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        event_dict.setdefault("service", self._service_name)
        return event_dict


def _redacted(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever was logged
    if name not in _PUBLIC_NAMES and _SECRET_WORDS.intersection(re.split(r"[_\W]+", name.lower())):
        return "<redacted>"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(k): _redacted(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    if isinstance(value, str | BaseException):
        return _strip(value)
    return value if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"


def _strip(value: object) -> object:
    """Text without bytes literals, which error messages quote, and passwords within addresses."""
    if not isinstance(value, str | BaseException):
        return _redacted("", value)
    return _URL_PASSWORD.sub(r"\1:***", _BYTES_LITERAL.sub("<bytes>", str(value)))
