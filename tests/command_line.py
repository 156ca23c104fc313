"""The command line as a person meets it."""

import re

from typer.testing import CliRunner

from fedlora.__main__ import app

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def fedlora(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, ANSI.sub("", result.stdout), ANSI.sub("", result.stderr)
