"""`fedlora audit`: its figures, its exit status, its errors; the child process runs in this one."""

import io
import json
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

from fedlora import audit as command
from services.client.training import optimizer as optimizing
from services.client.training.auditing.__main__ import main
from tests.command_line import fedlora

JOB = """
name: small
model: {base: minilm, task: sequence-classification, labels: [a, b]}
data: {text: text, label: label}
lora: {method: fedit, rank: 4, target_modules: [value]}
training: {local_steps: 2}
privacy: {epsilon: 4, sampling_rate: 0.5, noise_multiplier: 3, clip_norm: 0.1}
rounds: {count: 2}
"""
CHAT = """
name: chat
model: {base: smollm2-135m, task: causal-lm}
data: {prompt: text, response: label}
"""


def in_this_process(arguments, **_):
    """The child's work without its start."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments[3:])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def died(arguments, **_):
    return subprocess.CompletedProcess(arguments, 1, "", "Traceback\nMemoryError\n")


def hung(arguments, **_):
    raise subprocess.TimeoutExpired(arguments, command.TIMEOUT_S)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The command's answer to a job of this text, on a few records."""

    def ask(text, *options, child=in_this_process):
        (tmp_path / "job.yaml").write_text(text)
        rows = [
            {"text": f"one more story, number {number}", "label": "ab"[number % 2]} for number in range(8)
        ]
        (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
        processes = SimpleNamespace(run=child, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr(command, "subprocess", processes)
        return fedlora("audit", tmp_path / "job.yaml", "--data", tmp_path / "data.jsonl", *options)

    return ask


def test_a_sound_step_is_reported_and_the_exit_status_is_0(asked):
    code, out, err = asked(JOB, "--small", "--canaries", 50)
    assert (code, err) == (0, "")
    assert "4 steps at sampling rate 0.5 with noise multiplier 3, on 8 records and 50 canaries" in out
    assert "nothing contradicts the claim" in out


def test_the_report_as_json_has_every_figure(asked):
    code, out, _ = asked(CHAT, "--small", "--canaries", 50, "--steps", 2, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["steps"], report["guesses"]["canaries"], report["model"]) == (2, 50, "small")
    assert report["sound"]
    assert 0 <= report["audited_epsilon"] <= report["claimed_epsilon"]
    assert {test["what"] for test in report["noise"]} >= {"variance over all coordinates"}


def test_a_step_that_forgets_its_noise_is_exposed_and_the_exit_status_is_1(asked, monkeypatch):
    monkeypatch.setattr(optimizing, "noised", lambda total, sigma, stream: total)
    code, out, err = asked(JOB, "--small", "--canaries", 500)
    assert code == 1
    assert "fails" in out
    assert "nothing contradicts" not in out
    assert "the audit contradicts the claim: epsilon is at least" in err
    assert "the variance over all coordinates of the noise is not what is claimed" in err


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (JOB, ("--canaries", 10**6), "trained parameters of this model (take at most"),
        (JOB.replace("rank: 4", "rnk: 4"), (), "lora.rnk: there is no such setting"),
        (CHAT.replace("label}", "reply}"), (), "reply"),
    ],
)
def test_a_persons_mistake_is_one_line_and_code_2(asked, text, options, said):
    code, out, err = asked(text, "--small", *options)
    assert (code, out) == (2, "")
    assert said in err


def test_data_that_is_not_there_is_a_mistake_too(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    code, _, err = fedlora("audit", tmp_path / "job.yaml", "--data", tmp_path / "absent")
    assert code == 2
    assert "absent is not a file" in err


@pytest.mark.parametrize(
    ("child", "said"), [(died, "the audit failed: MemoryError"), (hung, "took more than an hour")]
)
def test_a_child_that_dies_or_hangs_is_not_the_persons_mistake(asked, child, said):
    code, _, err = asked(JOB, "--small", child=child)
    assert code == 1
    assert said in err


def test_a_job_of_divided_noise_is_not_audited_by_what_no_client_releases(asked):
    text = JOB.replace("local_steps: 2", "local_steps: 1, optimizer: sgd")
    text = text.replace("privacy: {", "privacy: {noise: divided, ") + "aggregation: {weight_cap: 10}\n"
    code, _, err = asked(text, "--small")
    assert code != 0
    assert "audit the same job with privacy.noise: local" in err
