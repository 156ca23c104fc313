"""From one validation error to a sentence about what is wrong and the nearest setting that works."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from shared.job.specification import JobSpecification, Section

Location = tuple[str | int, ...]
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "model": "a block of settings",
}


class Advice(NamedTuple):
    """What is wrong, and what to do about it."""

    reason: str
    remedy: str


def advise(path: Location, detail: Mapping[str, Any]) -> Advice:
    """Explain one item of pydantic's `ValidationError.errors()` at `path`."""
    kind, value = str(detail["type"]), detail.get("input")
    if kind == "extra_forbidden":
        return _unknown_key(path)
    field = _field(path)
    if kind == "missing":
        return Advice("is required and missing", _describe(path, field))
    words = _literals(field.annotation) if field else ()
    if kind == "enum" or (words and isinstance(value, str)):
        return _not_one_of(path, str(value), words, "a number or " if _takes_numbers(field) else "")
    bound = _bound(path, detail, field)
    if bound is not None:
        return bound
    return _wrong_kind(path, kind, value, field)


def _wrong_kind(path: Location, kind: str, value: object, field: FieldInfo | None) -> Advice:
    if kind == "string_pattern_mismatch":
        return Advice(
            f"{value!r} has characters that a name cannot have",
            f"use lower-case letters, digits, - and _, for example {_slug(str(value))}",
        )
    wanted = next((text for start, text in _WANTED.items() if kind.startswith(start)), "another value")
    if isinstance(value, bool) and wanted == "text":
        return Advice("YAML reads yes, no, on, off, true and false as booleans", "put it in quotes")
    if wanted == "text" and isinstance(value, int | float):
        return Advice(f"{value!r} is not text", f'put it in quotes: "{value}"')
    if wanted == "a list" and isinstance(value, str):
        return Advice(f"{value!r} is not a list", f"write {path[-1]}: [{value}]")
    return Advice(f"{value!r} is not {wanted}", _describe(path, field))


def _unknown_key(path: Location) -> Advice:
    key = str(path[-1])
    section = _section(path[:-1]) or JobSpecification
    close = difflib.get_close_matches(key, list(section.model_fields), n=1)
    if close:
        return Advice("there is no such setting", f"did you mean {close[0]}?")
    for name, info in JobSpecification.model_fields.items():
        block = _block(info.annotation)
        if block is not None and key in block.model_fields:
            return Advice("there is no such setting here", f"move it under {name}:")
    return Advice("there is no such setting", f"there are {', '.join(sorted(section.model_fields))}")


def _not_one_of(path: Location, value: str, words: tuple[str, ...], also: str) -> Advice:
    close = difflib.get_close_matches(value, words, n=1, cutoff=0.5)
    reason = f"{value!r} is not {also or 'one of '}{', '.join(words)}"
    if close:
        return Advice(reason, f"did you mean {path[-1]}: {close[0]}?")
    return Advice(reason, f"set {path[-1]}: {words[0]}")


def _bound(path: Location, detail: Mapping[str, Any], field: FieldInfo | None) -> Advice | None:
    """The nearest value inside a bound that was passed."""
    context, value = detail.get("ctx") or {}, detail.get("input")
    if "le" in context:
        return Advice(f"{value} is above {context['le']}", f"set {path[-1]}: {context['le']}")
    if "ge" in context:
        return Advice(f"{value} is below {context['ge']}", f"set {path[-1]}: {context['ge']}")
    default = field.default if field is not None and isinstance(field.default, int | float) else None
    example = "" if default is None else f", for example {default}"
    if "gt" in context:
        return Advice(f"{value} is not above {context['gt']}", f"set a larger {path[-1]}{example}")
    if "lt" in context:
        return Advice(f"{value} is not below {context['lt']}", f"set a smaller {path[-1]}{example}")
    return None


def _describe(path: Location, field: FieldInfo | None) -> str:
    name = path[-1] if path else "the job"
    if field is None:
        return f"give {name} a value of the right kind"
    block = _block(field.annotation)
    if block is not None:
        return f"add a block {name}: with {', '.join(block.model_fields)}"
    words = _literals(field.annotation)
    if words:
        return f"set {name}: {' or '.join(words)}"
    default = field.get_default(call_default_factory=True)
    if not field.is_required() and default is not None and default != ():
        return f"set {name}: {default}, the default"
    return f"set {name}" + (f": {field.description}" if field.description else "")


def _section(path: Location) -> type[Section] | None:
    """The model of the block at `path`."""
    section: type[Section] = JobSpecification
    for part in path:
        info = section.model_fields.get(str(part))
        block = None if info is None else _block(info.annotation)
        if block is None:
            return None
        section = block
    return section


def _field(path: Location) -> FieldInfo | None:
    """The field at `path`, or the list field that holds it."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    if not path:
        return None
    section = _section(path[:-1])
    return None if section is None else section.model_fields.get(str(path[-1]))


def _block(annotation: object) -> type[Section] | None:
    """The annotation, when it is a block of settings."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return None


def _literals(annotation: Any) -> tuple[str, ...]:  # noqa: ANN401 - any annotation
    """The words that an enum, a Literal or a union with a Literal allows."""
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return tuple(str(member) for member in annotation)  # type: ignore[attr-defined]  # an Enum class
    if get_origin(annotation) is Literal:
        return tuple(str(word) for word in get_args(annotation))
    return tuple(word for part in get_args(annotation) for word in _literals(part))


def _takes_numbers(field: FieldInfo | None) -> bool:
    """Whether a number is allowed beside words."""
    parts = get_args(field.annotation) if field else ()
    return any(part in (int, float) or {int, float} & set(get_args(part)) for part in parts)


def _slug(text: str) -> str:
    kept = "".join(character if character.isalnum() else "-" for character in text.lower())
    return kept.encode("ascii", "ignore").decode().strip("-")[:40] or "my-job"
