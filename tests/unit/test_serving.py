"""What a person set wrongly ends a process with one line that says so."""

import pytest

from services.accountant.settings import AccountantSettings
from services.client.settings import ClientSettings
from shared.errors import Refused
from shared.serving import mistakes_explained


@pytest.mark.parametrize(
    ("variables", "settings", "told"),
    [
        ({}, ClientSettings, "FEDLORA_...CLIENT_ID: is not set"),
        (
            {"FEDLORA_CLIENT_CLIENT_ID": "a", "FEDLORA_CLIENT_DATA": "d", "FEDLORA_CLIENT_MEMORY_MIB": "5"},
            ClientSettings,
            "MEMORY_MIB: Input should be greater than or equal to 64, not '5'",
        ),
        ({"FEDLORA_ACCOUNTANT_LARGEST_EPSILON": "12"}, AccountantSettings, "at most 10"),
    ],
)
def test_a_wrong_environment_is_one_line(monkeypatch, variables, settings, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended, mistakes_explained():
        settings()
    assert told in ended.value.code
    assert "\n" not in ended.value.code


def test_a_refusal_is_one_line_and_anything_else_a_traceback():
    with pytest.raises(SystemExit, match="fedlora: device: none"), mistakes_explained():
        raise Refused("device", "none", "set cpu")
    with pytest.raises(ZeroDivisionError), mistakes_explained():
        1 / 0  # noqa: B018
