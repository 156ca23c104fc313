"""What the command line prints: results on standard output, everything else on standard error."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(line: str) -> None:
    """A line for people, as it is: no markup and no emoji is read from what users and services wrote."""
    out.print(line, markup=False)


def complain(line: str) -> None:
    """An error, on standard error."""
    err.print(line, markup=False, style="red" if err.is_terminal else None)


def emit_json(value: Any) -> None:  # noqa: ANN401 - any JSON tree
    """One JSON document for a program."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(*columns: str) -> Table:
    """A table in the project's look."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column)
    return drawn
