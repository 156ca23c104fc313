"""`fedlora ca`: an authority in a folder, and services that it signs for."""

import json
import subprocess

from fedlora.console import say
from tests.command_line import fedlora


def test_an_authority_signs_for_a_service_and_openssl_believes_it(tmp_path):
    code, out, err = fedlora("ca", "init", tmp_path / "ca", "--name", "hospitals")
    assert (code, err) == (0, ""), err
    code, _, err = fedlora(
        "ca", "issue", "broker", "--ca", tmp_path / "ca", "--out", tmp_path / "broker", "--host", "localhost"
    )
    assert (code, err) == (0, ""), err
    made = tmp_path / "broker" / "broker.pem"
    purpose = ["-purpose", "sslserver", "-verify_hostname", "localhost"]
    command = ["openssl", "verify", "-CAfile", tmp_path / "ca" / "authority.pem", *purpose, made]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    code, shown, _ = fedlora("ca", "show", made, "--json")
    found = json.loads(shown)
    assert (code, found["name"], found["kind"], found["hosts"]) == (0, "broker", "service", ["localhost"])
    _, shown, _ = fedlora("ca", "show", tmp_path / "ca" / "authority.pem", "--json")
    assert json.loads(shown)["fingerprint"] in out


def test_wrong_input_is_one_clear_line(tmp_path):
    assert fedlora("ca", "init", tmp_path)[0] == 0
    for arguments, said in (
        (("ca", "init", tmp_path), "has an authority"),
        (("ca", "issue", "x", "--ca", tmp_path / "none", "--out", tmp_path), "fedlora ca init"),
        (("ca", "issue", "X Y", "--ca", tmp_path, "--out", tmp_path), "is no name"),
        (("ca", "show", tmp_path / "none"), "is no certificate"),
    ):
        code, out, err = fedlora(*arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err


def test_what_is_said_is_printed_as_it_is(capsys):
    say("6A:AB:B:0C [bold] :smile:")
    assert capsys.readouterr().out == "6A:AB:B:0C [bold] :smile:\n"
