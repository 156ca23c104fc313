"""One step releases a clipped, noised sum: what one record can change in it is bounded."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.client.data.tokens import IGNORED, TokenRecord
from services.client.trainer import Cancelled
from services.client.training import step as private
from services.client.training.batching import Batching, together
from services.client.training.clipping import FixedClipping
from services.client.training.noise import KeyStream
from services.client.training.optimizer import SecureDPOptimizer
from shared.job.specification import Task
from tests.training.models import adapted, batch_mean, records, trained

CLIP = 0.05
WHOLE = Batching()


class Silence(KeyStream):
    """No noise, so that the clipped sum itself can be seen."""

    def gaussian(self, count, sigma):
        return np.zeros(count)


def clipped_sum(sample, losses=None, monkeypatch=None, clip=CLIP, batching=WHOLE):
    """(d,) the sum that a step would release, without its noise."""
    model = replace(adapted("llama"), batching=batching)
    if losses is not None:
        monkeypatch.setattr(private, "losses", losses)
    before = torch.cat([p.detach().flatten().clone() for p in trained(model)])
    optimizer = SecureDPOptimizer(
        torch.optim.SGD(trained(model), lr=1.0),
        noise_multiplier=1e-9,
        clipping=FixedClipping(clip),
        expected_batch_size=1.0,
        stream=Silence(),
    )
    private.private_step(model, optimizer, sample, Task.CAUSAL_LM, lambda: False)
    return before - torch.cat([p.detach().flatten() for p in trained(model)])


def adversarial(seed):
    """Many identical short records and one long one, last."""
    short = records("llama", [4], seed)[0]
    return [*[short] * 12, records("llama", [60], seed + 1)[0]]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_removing_one_record_moves_the_sum_by_at_most_the_clip_norm(seed):
    print(f"seed {seed}")
    sample = adversarial(seed)
    moved = clipped_sum(sample) - clipped_sum(sample[:-1])
    assert 0 < float(moved.norm()) <= CLIP * (1 + 1e-4)


def test_a_loss_averaged_over_the_batch_fails_that_check(monkeypatch):
    sample = adversarial(1)
    # As large as a short record's own gradient: clipping does not hide that the others rescale it.
    clip = float(clipped_sum(sample[:1], clip=1e6).norm())
    sound = clipped_sum(sample, clip=clip) - clipped_sum(sample[:-1], clip=clip)
    assert float(sound.norm()) <= clip * (1 + 1e-4)
    with_it = clipped_sum(sample, batch_mean, monkeypatch, clip)
    without = clipped_sum(sample[:-1], batch_mean, monkeypatch, clip)
    assert float((with_it - without).norm()) > 2 * clip


@pytest.mark.parametrize("batching", [Batching(tokens=16), Batching(tokens=64, fixed_shape=True)])
def test_micro_batches_change_nothing(batching):
    sample = adversarial(4)
    assert torch.allclose(clipped_sum(sample, batching=batching), clipped_sum(sample), atol=1e-6)


def test_a_record_with_a_gradient_that_is_not_finite_counts_for_nothing(monkeypatch):
    sample = records("llama", [5, 6, 7])
    poisoned = sample[1].ids
    sound = private.losses

    def losses(model, batch, task):
        bad = torch.tensor([float("nan") if record.ids == poisoned else 1.0 for record in batch.records])
        return sound(model, batch, task) * bad

    with_it = clipped_sum(sample, losses, monkeypatch)
    without = clipped_sum([sample[0], sample[2]], sound, monkeypatch)
    assert torch.isfinite(with_it).all()
    assert torch.allclose(with_it, without, atol=1e-6)


def noisy(model, stream):
    return SecureDPOptimizer(
        torch.optim.SGD(trained(model), lr=1.0),
        noise_multiplier=2.0,
        clipping=FixedClipping(CLIP),
        expected_batch_size=4.0,
        stream=stream,
    )


def test_an_empty_sample_still_moves_by_noise():
    model = adapted("llama")
    before = [p.detach().clone() for p in trained(model)]
    optimizer = noisy(model, KeyStream(lambda count: b"\1" * count))
    private.private_step(model, optimizer, [], Task.CAUSAL_LM, lambda: False)
    moved = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, trained(model), strict=True)])
    assert float(moved.std()) == pytest.approx(2.0 * CLIP / 4.0, rel=0.1)


def test_cancelling_before_a_micro_batch_moves_nothing():
    model = adapted("llama")
    before = [p.detach().clone() for p in trained(model)]
    optimizer = noisy(model, KeyStream())
    with pytest.raises(Cancelled):
        private.private_step(model, optimizer, records("llama", [4]), Task.CAUSAL_LM, lambda: True)
    assert all(torch.equal(b, p) for b, p in zip(before, trained(model), strict=True))


def test_one_token_that_is_not_learnt_has_no_loss():
    model = adapted("llama")
    silent = TokenRecord((1, 2, 3), (IGNORED, IGNORED, IGNORED))
    loud = records("llama", [6])[0]
    found = private.losses(model, together([silent, loud]), Task.CAUSAL_LM).detach()
    assert found[0].item() == 0
    assert found[1].item() > 0
