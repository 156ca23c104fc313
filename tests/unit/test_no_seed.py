"""A worker cannot be told to draw from a seed."""

import ast
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from services.client import __main__ as client
from services.client.settings import ClientSettings


def test_a_worker_takes_no_seed_and_its_trainer_draws_from_the_operating_system(tmp_path, monkeypatch):
    noise = pytest.importorskip("services.client.training.noise")
    for name in ("FEDLORA_SEED", "FEDLORA_CLIENT_SEED"):
        monkeypatch.setenv(name, "1")
    settings = ClientSettings(client_id="alice", home=tmp_path, data=tmp_path / "rows.jsonl")
    telemetry = SimpleNamespace(span=None)
    trainer = client.trainer_for(settings, SimpleNamespace(telemetry=telemetry))
    assert trainer.streams is noise.KeyStream
    assert noise.KeyStream.__init__.__defaults__[0].__name__ == "urandom"
    with pytest.raises(ValidationError):
        ClientSettings(client_id="alice", home=tmp_path, data=tmp_path, seed=1)
    named = {*ClientSettings.model_fields, *inspect.signature(client.build).parameters}
    assert not [name for name in named if "seed" in name or "stream" in name]


def test_only_a_simulation_gives_a_trainer_other_streams():
    """Nothing else calls `part` or names `streams`, and no service imports a simulation."""
    root = Path(client.__file__).parents[2]
    giving = set()
    for path in (*root.glob("services/client/**/*.py"), *root.glob("fedlora/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.keyword) and node.arg == "streams"
            set_from_outside = isinstance(node, ast.Attribute) and node.attr in {"streams", "part"}
            imported = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "fedlora.simulation"
            )
            if named or set_from_outside or imported:
                giving.add(path.relative_to(root).as_posix())
    allowed = {"services/client/training/trainer.py", "fedlora/__main__.py"}
    assert {path for path in giving if not path.startswith("fedlora/simulation/")} <= allowed
