"""Records that are held out are measured, the same ones in each round, and never trained on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from services.client.evaluating import HoldOut
from services.client.training import evaluating
from services.client.training import trainer as module
from services.client.training.trainer import LoraTrainer
from shared.errors import Refused
from tests.training.test_trainer import ROWS, job, quiet, task

HOLD_OUT = HoldOut(b"k" * 32, 0.4)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


@pytest.fixture
def seen(monkeypatch):
    """(what was trained on, what each evaluation measured), as contents."""
    trained, measured = set(), []
    step, measure = module.private_step, evaluating.measure_each

    def stepping(adapted, optimizer, sample, *others):
        trained.update(map(evaluating.content, sample))
        step(adapted, optimizer, sample, *others)

    def measuring(adapted, records, *others):
        measured.append(sorted(map(evaluating.content, records)))
        return measure(adapted, records, *others)

    monkeypatch.setattr(module, "private_step", stepping)
    monkeypatch.setattr(evaluating, "measure_each", measuring)
    return trained, measured


def prepared(data, **evaluation):
    specification = job(evaluation={"every": 1, **evaluation})
    trainer = LoraTrainer(device="cpu")
    layout = trainer.prepare("j", specification, data, quiet).layout
    work = replace(task(specification, data, layout, steps=12), hold_out=HOLD_OUT)
    return trainer, work


def test_held_out_records_are_measured_alike_in_each_round_and_never_trained_on(data, seen):
    trained, measured = seen
    trainer, work = prepared(data)
    again = LoraTrainer(device="cpu")  # as after a restart
    again.prepare("j", work.specification, data, quiet)
    for number, one in enumerate((trainer, trainer, again), start=1):
        one.train(replace(work, round_id=f"j-r{2 * number - 1}"), quiet, lambda: False)
        evaluation = replace(work, round_id=f"j-r{2 * number}", kind="evaluate")
        found = one.evaluate(evaluation, quiet, lambda: False)
        assert found.shape == (len(measured[-1]), 2)
        assert np.isfinite(found).all()
        assert set(found[:, 0]) <= {0.0, 1.0}
    assert measured[0] == measured[1] == measured[2]
    assert 5 < len(measured[0]) < len(ROWS) - 5
    assert not trained & set(measured[0])
    assert len(trained) == len(ROWS) - len(measured[0])  # with 36 steps at 0.3 all others were


def test_no_more_records_are_measured_than_the_job_asks_and_the_rest_are_not_trained_on(data, seen):
    trained, measured = seen
    trainer, work = prepared(data, records=10)
    some = LoraTrainer(device="cpu")
    some.prepare("j", work.specification, data, quiet)
    fewer = work.specification.model_copy(
        update={"evaluation": work.specification.evaluation.model_copy(update={"records": 3})}
    )
    some.evaluate(replace(work, specification=fewer, kind="evaluate"), quiet, lambda: False)
    assert len(measured[0]) == 3
    trainer.train(replace(work), quiet, lambda: False)
    assert len(trained) < len(ROWS) - 5


def test_a_records_figures_do_not_depend_on_those_beside_it(data):
    trainer, work = prepared(data)
    work = replace(work, kind="evaluate")
    adapted = trainer._at(work)
    records = trainer._data["j", data]
    together = evaluating.measure_each(adapted, records, work.specification.model.task, lambda: False)
    alone = [
        evaluating.measure_each(adapted, [one], work.specification.model.task, lambda: False)[0]
        for one in records
    ]
    assert sorted(map(tuple, np.round(together, 4))) == sorted(map(tuple, np.round(alone, 4)))


def test_an_evaluation_without_held_out_records_is_refused(data):
    trainer, work = prepared(data)
    with pytest.raises(Refused):
        trainer.evaluate(replace(work, hold_out=None, kind="evaluate"), quiet, lambda: False)
