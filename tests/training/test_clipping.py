"""Every clipping rule bounds what one record moves; adaptive clipping finds the quantile it is asked for."""

import math

import numpy as np
import pytest
import torch

from services.client.training.clipping import (
    AdaptiveClipping,
    AutomaticClipping,
    FixedClipping,
    PerLayerClipping,
    clipping_for,
)
from services.client.training.noise import KeyStream
from shared.job.specification import Privacy

NORM = 0.7


class Silence(KeyStream):
    """No noise, so that the quantile itself can be seen."""

    def gaussian(self, count, sigma):
        return np.zeros(count)


def rules():
    return [
        FixedClipping(NORM),
        PerLayerClipping(NORM),
        AutomaticClipping(NORM),
        AdaptiveClipping(NORM, 0.5, 10.0),
    ]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_record_has_more_than_the_norm_whatever_its_gradient(rule, seed):
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    norms = 10 ** (8 * torch.rand((5, 200), generator=generator) - 5)
    norms[:, 0] = 0
    norms[1:, 1] = 0  # all of a record in one tensor
    clipped = (norms * rule.factors(norms)).norm(dim=0)
    assert float(clipped.max()) <= NORM * (1 + 1e-6)
    assert float(clipped.max()) > 0.4 * NORM  # the bound is not met by shrinking everything


def test_a_gradient_within_the_norm_is_left_alone():
    small = torch.full((4, 3), 0.1)
    assert torch.equal(FixedClipping(NORM).factors(small), torch.ones(4, 3))


def test_each_layer_is_bounded_alone():
    norms = torch.tensor([[100.0], [0.01], [0.01], [0.01]])
    per_layer = PerLayerClipping(NORM).factors(norms)
    assert per_layer[1:].allclose(torch.ones(3, 1))  # a fixed bound shrinks these with the first
    assert float(per_layer[0] * 100) == pytest.approx(NORM / 2, rel=1e-5)
    assert float(FixedClipping(NORM).factors(norms)[1]) < 0.01


def test_automatic_clipping_gives_large_and_medium_gradients_the_same_weight():
    norms = torch.tensor([[5.0, 500.0]])
    weights = norms * AutomaticClipping(NORM).factors(norms)
    assert float(weights[0, 0]) == pytest.approx(float(weights[0, 1]), rel=0.01)


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.01, 50.0])
def test_adaptive_clipping_finds_the_quantile(quantile, start):
    print("seed 5")
    generator = torch.Generator().manual_seed(5)
    rule = AdaptiveClipping(start, quantile, 10.0)
    for _ in range(150):
        rule.factors(torch.rand((1, 400), generator=generator))  # norms uniform on [0, 1]
        rule.end_step(400.0, Silence())
    assert rule.norm == pytest.approx(quantile, abs=0.06)


def test_one_record_moves_the_released_bits_by_one_half():
    def moved(norms):
        rule = AdaptiveClipping(1.0, 0.5, 10.0)
        rule.factors(norms)
        rule.end_step(100.0, Silence())
        return math.log(rule.norm)

    base = torch.tensor([[0.2, 3.0, 0.4]])
    for extra in (0.1, 9.0):
        with_it = torch.cat([base, torch.tensor([[extra]])], dim=1)
        # eta (1/2) / expected: a bit in {0, 1} would move it by twice that.
        assert abs(moved(with_it) - moved(base)) == pytest.approx(0.2 * 0.5 / 100)


def test_the_bits_have_the_noise_they_are_charged_for():
    draws = []
    for number in range(400):
        rule = AdaptiveClipping(1.0, 0.5, 8.0)
        rule.end_step(100.0, KeyStream(lambda count, n=number: n.to_bytes(2, "big") * (count // 2)))
        draws.append(-math.log(rule.norm) / 0.2 * 100)
    # Standard deviation z_bits x sensitivity 1/2; 400 draws know it to 3.5 %.
    assert np.std(draws) == pytest.approx(4.0, rel=0.15)


def test_a_rule_that_the_mechanism_does_not_charge_for_is_refused():
    with pytest.raises(ValueError, match="charges"):
        clipping_for(Privacy(clipping="adaptive"), 1.0, None)
    with pytest.raises(ValueError, match="charges"):
        clipping_for(Privacy(), 1.0, 10.0)
    assert isinstance(clipping_for(Privacy(clipping="per-layer"), 1.0, None), PerLayerClipping)
