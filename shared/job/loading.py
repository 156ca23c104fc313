"""From a YAML file to a JobSpecification, or every mistake in it with its line and its remedy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.errors import FedloraError, Refused
from shared.job.advice import Location, advise
from shared.job.refusals import refusals
from shared.job.specification import JobSpecification

MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is, what is wrong, what would work.

    Attributes:
        line: from 1; None when the job did not come from a file.
        field: dotted path into the job.
    """

    line: int | None
    field: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = "" if self.line is None else f"line {self.line}: "
        name = f"{self.field}: " if self.field else ""
        return f"{where}{name}{self.reason}; {self.remedy}"


@dataclass(unsafe_hash=True)  # not frozen: Python sets __traceback__ on what is raised
class JobFileError(FedloraError):
    """All mistakes of one job file, in the order of its lines."""

    source: str
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {problem}" for problem in self.problems)


def load_job(path: Path) -> JobSpecification:
    """Read a job file. Raises: JobFileError with every problem at once."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problem = Problem(None, "", f"cannot be read: {reason}", "give the path of a job file")
        raise JobFileError(str(path), (problem,)) from None
    return parse_job(content, str(path))


def parse_job(content: bytes, source: str = "job") -> JobSpecification:
    """Validate YAML (or JSON, which is YAML). Raises: JobFileError with every problem at once."""
    value, lines = _read(content, source)
    return _validated(value, source, lines)


def validate_job(value: Mapping[str, Any], source: str = "job") -> JobSpecification:
    """Validate what is already parsed, such as a request's body. Raises: JobFileError, no lines."""
    return _validated(dict(value), source, _locations(value))


def _validated(value: dict[str, Any], source: str, lines: Mapping[Location, int | None]) -> JobSpecification:
    value.pop("$schema", None)
    try:
        specification = JobSpecification.model_validate(value)
    except ValidationError as error:
        found: dict[Location, Problem] = {}
        # Of a setting that is a word or a number, a number's own error says more.
        for detail in sorted(error.errors(include_url=False), key=_is_word_for_a_number):
            path = _path_of(detail["loc"], lines, detail["type"])
            advice = advise(path, detail)
            found.setdefault(path, Problem(_line(path, lines), _dotted(path), advice.reason, advice.remedy))
        problems = sorted(found.values(), key=lambda problem: problem.line or 0)
        raise JobFileError(source, tuple(problems)) from None
    refused = refusals(specification)
    if refused:
        raise JobFileError(source, tuple(_from_refusal(one, lines) for one in refused))
    return specification


def _is_word_for_a_number(detail: ErrorDetails) -> bool:
    return detail["type"] == "literal_error" and not isinstance(detail["input"], str)


def _from_refusal(refused: Refused, lines: Mapping[Location, int | None]) -> Problem:
    path: Location = tuple(refused.field.split("."))
    return Problem(_line(path, lines), refused.field, refused.reason, refused.remedy)


def _read(content: bytes, source: str) -> tuple[dict[str, Any], dict[Location, int | None]]:
    if len(content) > MAX_FILE_BYTES:
        _refuse(source, None, f"{len(content)} bytes, at most {MAX_FILE_BYTES}", "this is not a job file")
    try:
        text = content.decode("utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else None
                _refuse(source, line, "aliases are not read", "write the value out")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Location, int | None] = {}
        if isinstance(node, yaml.MappingNode):
            for repeated, path in _walk(node, (), lines):
                _refuse(source, repeated, f"{_dotted(path)} appears twice", "remove one of the two")
        value = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        _refuse(source, content[: error.start].count(b"\n") + 1, "not UTF-8", "save the file as UTF-8")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        _refuse(source, line, f"not YAML: {error.problem}", "check indentation, colons and quotes")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        _refuse(source, None, f"not YAML: {type(error).__name__}", "save the file as plain YAML")
    if not isinstance(value, dict):
        _refuse(source, 1, "a job is a mapping", "start from examples/chit-chat.yaml")
    return {str(key): item for key, item in value.items()}, lines


def _refuse(source: str, line: int | None, reason: str, remedy: str) -> Any:  # noqa: ANN401 - never returns
    raise JobFileError(source, (Problem(line, "", reason, remedy),))


def _walk(
    node: yaml.Node, path: Location, lines: dict[Location, int | None]
) -> Iterator[tuple[int, Location]]:
    """Fill `lines` with the line of each path; yield keys that appear twice."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            inner = (*path, str(key.value))
            if key.value in seen:
                yield key.start_mark.line + 1, inner
            seen.add(key.value)
            lines[inner] = key.start_mark.line + 1
            yield from _walk(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), lines)


def _locations(value: object, path: Location = ()) -> dict[Location, int | None]:
    """The paths of a parsed value, without lines."""
    found: dict[Location, int | None] = {path: None}
    pairs: list[tuple[str | int, object]] = []
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    for key, item in pairs:
        found.update(_locations(item, (*path, key)))
    return found


def _path_of(loc: tuple[int | str, ...], known: Mapping[Location, int | None], kind: str) -> Location:
    """pydantic's location without the names of union members that it mixes in."""
    path: Location = ()
    for index, part in enumerate(loc):
        is_missing_field = kind == "missing" and index == len(loc) - 1
        if (*path, part) in known or is_missing_field:
            path = (*path, part)
    return path


def _line(path: Location, lines: Mapping[Location, int | None]) -> int | None:
    """The line of `path`, or of the nearest thing around it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def _dotted(path: Location) -> str:
    return ".".join(map(str, path))
