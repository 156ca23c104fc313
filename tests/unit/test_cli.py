"""Whatever a person types: one clear line, the right exit code, never a traceback."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlora.__main__ import app
from fedlora.faults import Fault
from fedlora.ledger_file import recompute
from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.ledger import LedgerLine, export

EXAMPLE = Path(__file__).parents[2] / "examples" / "chit-chat.yaml"
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def fedlora(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, ANSI.sub("", result.stdout), ANSI.sub("", result.stderr)


def entry(number: int, steps: int = 8, outcome: str = "committed") -> dict:
    mechanism = {"sampling_rate": 0.1, "noise_multiplier": 1.0, "steps": steps}
    names = {"job": "j", "client": "a", "reservation": f"r{number}", "outcome": outcome}
    return {**names, "mechanism": mechanism, "delta": 1e-5, "epsilon_limit": 8.0}


def chain(count: int) -> list[LedgerLine]:
    lines, previous = [], "0" * 64
    for sequence in range(1, count + 1):
        line = LedgerLine(sequence, previous, "", entry(sequence))
        previous = line.digest()
        lines.append(LedgerLine(sequence, line.previous_sha256, previous, line.body))
    return lines


def test_a_good_job_file_is_confirmed_in_one_line():
    code, out, err = fedlora("job", "check", EXAMPLE)
    assert (code, err) == (0, "")
    assert "can run. 3 rounds of 1 steps" in out


def test_a_checked_job_as_json_has_every_default():
    code, out, _ = fedlora("job", "check", EXAMPLE, "--json")
    assert code == 0
    assert json.loads(out)["aggregation"]["robust"] == "mean"


def test_each_mistake_of_a_job_file_is_a_line_with_its_number_and_code_2(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(EXAMPLE.read_text().replace("epsilon: 8 ", "epsilon: 80").replace("rank: 8", "rnk: 8"))
    code, out, err = fedlora("job", "check", file)
    assert (code, out) == (2, "")
    mistakes = err.strip().splitlines()
    assert len(mistakes) == 2
    assert "lora.rnk: there is no such setting; did you mean rank?" in mistakes[0]
    assert re.search(r"job\.yaml: line \d+: privacy\.epsilon: 80 is above 10", mistakes[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("job", "check", "absent.yaml"), "absent.yaml: cannot be read"),
        (("job", "submit", "absent.yaml"), "absent.yaml: cannot be read"),
        (("job", "list", "--gateway", "nonsense"), "nonsense is not a web address"),
        (("ledger", "verify", "absent.jsonl"), "absent.jsonl cannot be read"),
        (("up", "--worker", "alice"), "write --worker NAME=FILE"),
        (("up", "--worker", "Al ice=x"), "cannot be a client's name"),
        (("up", "--worker", "alice=absent.jsonl"), "absent.jsonl is not a file"),
        (("up", "--processes"), "name one with --bus amqp://"),
        (("worker", "--data", "x", "--bus", "http://x", "--name", "a"), "not a broker's address"),
        (("worker", "--data", "absent", "--bus", "amqp://x", "--name", "a"), "absent is not a file"),
        (("worker", "--data", "x", "--bus", "amqp://x", "--name", "A!"), "cannot be a client's name"),
        (("trace", "job-r1", "--file", "absent.jsonl"), "no span of job-r1"),
        (("evaluate", "absent.yaml", "--data", "x"), "absent.yaml: cannot be read"),
        (("evaluate", EXAMPLE, "--data", "absent"), "absent is not a file"),
        (("evaluate", EXAMPLE, "--data", EXAMPLE, "--adapter", "absent"), "holds no adapter_config.json"),
    ],
)
def test_a_persons_mistake_is_one_line_that_says_what_to_do_and_code_2(
    tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    code, out, err = fedlora(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "list"),
        ("job", "show", "x"),
        ("job", "watch", "x"),
        ("job", "cancel", "x"),
        ("job", "submit", EXAMPLE),
        ("ledger", "show"),
        ("ledger", "export"),
        ("export", "x", "adapter"),
    ],
)
def test_a_gateway_that_is_away_is_code_1_and_says_how_to_start_one(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, out, err = fedlora(*arguments, "--gateway", NOBODY)
    assert (code, out) == (1, "")
    assert "no gateway answers at http://127.0.0.1:9" in err
    assert "fedlora up" in err


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("job", "check"), ("up", "--port", "70000"), ("job", "x")]
)
def test_a_command_that_does_not_exist_is_code_2(arguments):
    code, _, err = fedlora(*arguments)
    assert code == 2
    assert "Error" in err or "Usage" in err


def test_the_demo_does_not_write_over_a_folder_that_is_not_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, err = fedlora("demo", "--fast", "--out", tmp_path)
    assert code == 2
    assert "no demo wrote it; name a new folder with --out" in err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_schema_is_printed_as_json():
    code, out, _ = fedlora("job", "schema")
    assert code == 0
    assert json.loads(out)["title"] == "JobSpecification"


def test_an_intact_ledger_is_confirmed_with_its_head(tmp_path):
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(export(chain(3)))
    code, out, _ = fedlora("ledger", "verify", file, "--json")
    assert code == 0
    verified = json.loads(out)
    assert (verified["entries"], verified["head"]) == (3, chain(3)[-1].entry_sha256)
    [spent] = verified["epsilon"]
    assert spent["epsilon"] == epsilon([Mechanism(0.1, 1.0, 24)], 1e-5)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [lines[0], lines[2]], "broken at entry 3: entry 2 is missing"),
        (lambda lines: [lines[1], lines[0], lines[2]], "broken at entry 2: entry 1 is missing"),
        (lambda lines: [*lines[:2], LedgerLine(3, lines[1].entry_sha256, lines[2].entry_sha256, {})],
         "broken at entry 3: its content does not match its hash"),
        (lambda lines: [lines[0], LedgerLine(2, "ab" * 32, "cd" * 32, {}), lines[2]],
         "broken at entry 2: it does not continue"),
    ],
)  # fmt: skip
def test_a_damaged_ledger_is_refused_at_the_entry(tmp_path, damage, said):
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(export(damage(chain(3))))
    code, out, err = fedlora("ledger", "verify", file)
    assert (code, out) == (1, "")
    assert said in err


def test_a_file_that_is_no_ledger_is_refused_with_the_line(tmp_path):
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(export(chain(1)) + b"nonsense\n")
    code, _, err = fedlora("ledger", "verify", file)
    assert code == 2
    assert "line 2 is not a ledger entry" in err


def test_recomputing_counts_the_last_entry_of_a_reservation_and_nothing_released():
    lines = [
        LedgerLine(1, "", "", entry(1, steps=8, outcome="reserved")),
        LedgerLine(2, "", "", entry(1, steps=4)),
        LedgerLine(3, "", "", entry(2, outcome="reserved")),
        LedgerLine(4, "", "", entry(2, outcome="released")),
    ]
    assert recompute(lines, "x") == {("j", "a"): epsilon([Mechanism(0.1, 1.0, 4)], 1e-5)}


def test_a_client_past_its_limit_is_named():
    with pytest.raises(Fault, match=r"a has spent epsilon .* of 8 in j"):
        recompute([LedgerLine(1, "", "", entry(1, steps=100_000))], "x")
