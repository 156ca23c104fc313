"""Rows of JSONL, CSV, Parquet or plain text as records of the job's task."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.client.trainer import DataError
from shared.job.specification import Data, Model, Task

FORMATS = "JSONL (.jsonl, .json), CSV (.csv), Parquet (.parquet) or plain text (.txt)"


@dataclass(frozen=True)
class Record:
    """One example: `prompt` may be empty; `label` is an index into the job's labels."""

    prompt: str
    text: str
    label: int | None = None


def read_records(path: Path, data: Data, model: Model) -> tuple[list[Record], tuple[DataError, ...]]:
    """All usable records, and the rows that were skipped.

    Raises: DataError for an unreadable file, a missing column, no usable record, or, with
        `bad_rows: stop`, the first bad row.
    """
    if not path.is_file():
        raise DataError(0, "", f"{path} does not exist")
    columns = None
    records: list[Record] = []
    skipped: list[DataError] = []
    for number, row in _rows(path):
        if isinstance(row, DataError):
            problem: Record | DataError = row
        else:
            columns = columns or _columns(row, data, model.task)
            problem = _record(number, row, columns, model)
        if isinstance(problem, Record):
            records.append(problem)
        elif data.bad_rows == "stop":
            raise problem
        else:
            skipped.append(problem)
    if not records:
        raise skipped[0] if skipped else DataError(0, "", "it holds no records")
    return records, tuple(skipped)


def read_column(path: Path, data: Data, model: Model, name: str) -> list[Any]:
    """What any column holds, of each record that `read_records` finds, in its order.

    Raises: DataError for an unreadable file or a missing column.
    """
    columns = None
    values: list[Any] = []
    for number, row in _rows(path):
        if isinstance(row, DataError):
            continue
        if name not in row:
            known = ", ".join(map(str, row))
            raise DataError(number, name, f"there is no column {name}; the row has {known}")
        columns = columns or _columns(row, data, model.task)
        if isinstance(_record(number, row, columns, model), Record):
            values.append(row[name])
    return values


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    """(row number from 1, columns by name)."""
    suffix = path.suffix.lower()
    try:
        if suffix in {".jsonl", ".json", ".ndjson"}:
            yield from _json_rows(path)
        elif suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                yield from enumerate(csv.DictReader(file), start=1)
        elif suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix in {".txt", ".text"}:
            lines = path.read_text(encoding="utf-8").splitlines()
            yield from ((n, {"text": line}) for n, line in enumerate(lines, start=1) if line.strip())
        else:
            raise DataError(0, "", f"{path.name} is not {FORMATS}")
    except UnicodeDecodeError as error:
        raise DataError(0, "", f"{path.name} is not UTF-8 (byte {error.start})") from None
    except csv.Error as error:
        raise DataError(0, "", f"{path.name} is not CSV: {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield number, DataError(number, "", f"not JSON: {error.msg}")
                continue
            yield number, row if isinstance(row, dict) else DataError(number, "", "not a JSON object")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow  # noqa: PLC0415 - heavy, and only Parquet needs it
    from pyarrow import parquet  # noqa: PLC0415

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowInvalid as error:
        raise DataError(0, "", f"{path.name} is not Parquet: {error}") from None


@dataclass(frozen=True)
class _Columns:
    text: str
    prompt: str | None = None
    label: str | None = None


def _columns(row: Mapping[str, Any], data: Data, task: Task) -> _Columns:
    """The columns that the job names, or the usual ones. Raises: DataError when one is not there."""
    if task is Task.SEQUENCE_CLASSIFICATION:
        columns = _Columns(text=data.text or "text", label=data.label or "label")
    elif data.response or (data.text is None and "response" in row):
        columns = _Columns(text=data.response or "response", prompt=data.prompt or "prompt")
    else:
        columns = _Columns(text=data.text or "text")
    for name in (columns.text, columns.prompt, columns.label):
        if name is not None and name not in row:
            raise DataError(0, name, f"there is no such column; the file has {', '.join(map(str, row))}")
    return columns


def _record(number: int, row: Mapping[str, Any], columns: _Columns, model: Model) -> Record | DataError:
    text = row.get(columns.text)
    if not isinstance(text, str) or not text.strip():
        return DataError(number, columns.text, "empty" if text in (None, "") else "not text")
    prompt = row.get(columns.prompt) if columns.prompt else ""
    if not isinstance(prompt, str):
        return DataError(number, columns.prompt or "", "not text")
    if columns.label is None:
        return Record(prompt, text)
    label = str(row.get(columns.label))
    if label not in model.labels:
        return DataError(number, columns.label, f"{label[:40]!r} is none of {', '.join(model.labels)}")
    return Record(prompt, text, model.labels.index(label))
