"""A job's rounds arrive in each tracker's own store, once, and a missing extra is one line."""

import sys
from importlib import import_module

import pytest

from fedlora.api_client import GatewayClient
from fedlora.tracking.points import points_of
from tests.command_line import fedlora


def a_round(number, **changes):
    return {
        "number": number, "status": "completed", "contributors": ["a", "b"], "left_out": {"c": "too late"},
        "local_steps": 16, "uploaded_bytes": 2048, "metrics": {"accuracy": 0.5 + number / 8}, "kind": "train",
        "update_norm": 0.25 * number, "started_at": f"2026-01-01T00:0{number}:00+00:00",
        "ended_at": f"2026-01-01T00:0{number}:07+00:00", **changes,
    }  # fmt: skip


def a_job(*rounds, ended=None):
    entries = [{"round_id": f"job-1-r{one['number']}", "epsilon": 0.5 * one["number"]} for one in rounds]
    budgets = [{"entries": entries}, {"entries": entries[:1]}]
    return {"job_id": "job-1", "rounds": list(rounds), "budgets": budgets, "ended_at": ended}


def test_a_point_says_what_the_round_gave():
    (point,) = points_of(a_job(a_round(1)), 0)
    assert point.number == 1
    assert point.values == {
        "round/contributors": 2, "round/left_out": 1, "round/local_steps": 16, "round/uploaded_bytes": 2048,
        "round/completed": 1, "metrics/accuracy": 0.625, "round/update_norm": 0.25, "round/seconds": 7,
        "privacy/largest_epsilon": 0.5,
    }  # fmt: skip


def test_an_aborted_round_and_an_evaluation_have_no_update_norm():
    job = a_job(a_round(1, status="aborted", update_norm=None), a_round(2, kind="evaluate"))
    assert [point.values.get("round/update_norm") for point in points_of(job, 0)] == [None, None]
    assert [point.values["round/completed"] for point in points_of(job, 0)] == [0, 1]


def test_no_round_is_written_before_those_under_it_are_over():
    job = a_job(a_round(1), a_round(2, status="open", ended_at=None), a_round(3))
    assert [point.number for point in points_of(job, 0)] == [1]
    assert [point.number for point in points_of(a_job(a_round(1), a_round(2)), 1)] == [2]


def in_tensorboard(folder):
    accumulator = import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    found = accumulator(str(folder / "job-1"))
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def in_mlflow(folder):
    client = import_module("mlflow.tracking").MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("fedlora").experiment_id])
    return {
        name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def in_wandb(folder):
    record_of = import_module("wandb.proto.wandb_internal_pb2").Record
    found = {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-job-1.wandb")):
        for data in logged(file.read_bytes()):
            record = record_of.FromString(data)
            items = {one.key or "/".join(one.nested_key): one.value_json for one in record.history.item}
            for name, value in items.items():
                if not name.startswith("_"):
                    found.setdefault(name, []).append((record.history.step.num, float(value)))
    return found


def logged(content, block=32768, head=7):
    """The records of an offline run: LevelDB's log format after seven bytes of its own."""
    at, parts = head, b""
    while at + head <= len(content):
        if block - at % block < head:
            at += block - at % block
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + head : at + head + size]
        at += head + size
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


READERS = {"tensorboard": in_tensorboard, "mlflow": in_mlflow, "wandb": in_wandb}
PACKAGES = {"mlflow": "mlflow.store.tracking.sqlalchemy_store"}


@pytest.fixture(autouse=True)
def local(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.filterwarnings("ignore")  # what the trackers warn of is theirs
@pytest.mark.parametrize("backend", READERS)
def test_each_round_is_there_once_however_often_it_is_tracked(backend, monkeypatch, tmp_path):
    pytest.importorskip(PACKAGES.get(backend, backend))
    told = [a_job(a_round(1), a_round(2))]
    monkeypatch.setattr(GatewayClient, "job", lambda client, job_id: told[-1])
    arguments = ("track", "job-1", "--to", backend, "--dir", tmp_path, "--no-follow")
    for job in (
        told[0],
        told[0],
        a_job(a_round(1), a_round(2), a_round(3), ended="2026-01-01T00:04:00+00:00"),
    ):
        told.append(job)
        assert fedlora(*arguments)[0] == 0
    found = READERS[backend](tmp_path)
    assert found["round/update_norm"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert found["metrics/accuracy"] == [(1, 0.625), (2, 0.75), (3, 0.875)]
    assert found["privacy/largest_epsilon"] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert found["round/uploaded_bytes"] == [(1, 2048), (2, 2048), (3, 2048)]


def test_a_job_is_followed_to_its_end(monkeypatch, tmp_path):
    pytest.importorskip("tensorboard")
    jobs = [a_job(), a_job(a_round(1)), a_job(a_round(1), a_round(2), ended="2026-01-01T00:03:00+00:00")]
    monkeypatch.setattr(
        GatewayClient, "job", lambda client, job_id: jobs.pop(0) if len(jobs) > 1 else jobs[0]
    )
    monkeypatch.setattr(GatewayClient, "follow", lambda client, job_id: iter([[], []]))
    code, out, _ = fedlora("track", "job-1", "--to", "tensorboard", "--dir", tmp_path)
    assert code == 0
    assert "round 2 is the last that tensorboard has" in out
    assert [step for step, _ in in_tensorboard(tmp_path)["round/update_norm"]] == [1, 2]


@pytest.mark.parametrize("backend", READERS)
def test_a_missing_extra_is_named(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(GatewayClient, "job", lambda client, job_id: a_job())
    for name in [one for one in sys.modules if one.split(".")[0] == backend]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, backend, None)
    code, out, err = fedlora("track", "job-1", "--to", backend, "--dir", tmp_path, "--no-follow")
    assert (code, out) == (2, "")
    assert err.strip() == f"fedlora: {backend} is not installed; install fedlora[{backend}]"
