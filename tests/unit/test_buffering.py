"""What buffered updates count, and the noise in their mean."""

import secrets
from datetime import UTC, datetime

import numpy as np
import pytest

from services.coordinator.adapter.stepping import Came, noise_variance
from services.coordinator.buffering import Buffered, discount, mean, shares
from shared.errors import Rejected
from shared.events.values import BlobRef, Layout, TensorSpec
from shared.job.plan import mean_noise_variance
from shared.sessions.contents import Contents
from tests.unit.test_refusals_aggregation import job

LAYOUT = Layout(tensors=(TensorSpec(name="w.lora_B.weight", shape=(4,), trainable=True),))


def buffered(number, completed, weight=1.0):
    return Buffered(
        job_id="job",
        round_id=f"job-a{number}",
        number=number,
        client_id=f"c{number}",
        update=BlobRef(sha256="0" * 64, size_bytes=16),
        weight=weight,
        completed=completed,
        uploaded_bytes=16,
        started_at=datetime.now(UTC),
    )


@pytest.mark.parametrize(("staleness", "counts"), [(0, 1.0), (1, 0.5**0.5), (3, 0.5), (8, 1 / 3)])
def test_an_update_counts_less_by_the_root_of_its_staleness(staleness, counts):
    assert discount(staleness) == pytest.approx(counts)


def test_shares_are_the_clients_weights_discounted_and_sum_to_one():
    found = shares([buffered(1, 4), buffered(2, 1), buffered(3, 4, weight=0.5)], 4)
    assert found == pytest.approx((0.5, 0.25, 0.25))
    assert shares([buffered(1, 0, weight=0.25)], 99) == (1.0,)


def test_the_mean_is_weighted_by_the_shares():
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rows = np.random.default_rng(seed).normal(size=(3, 5)).astype("<f4")
    parts = (0.5, 0.2, 0.3)
    expected = (rows.astype(np.float64) * np.array(parts)[:, None]).sum(axis=0)
    np.testing.assert_allclose(mean([row.tobytes() for row in rows], parts), expected, rtol=1e-6)


def test_updates_of_different_lengths_have_no_mean():
    with pytest.raises(Rejected, match="length"):
        mean([b"\0" * 8, b"\0" * 12], (0.5, 0.5))


def test_the_noise_in_a_mean_of_buffered_updates_is_that_of_its_shares():
    specification = job(
        {"secure": "none"},
        {"asynchronous": True, "min_clients": 2, "buffer": 2},
        training={"optimizer": "sgd", "local_steps": 3},
    )
    contents = Contents.of(specification, LAYOUT, 0, "")
    records = {"a": 40, "b": 40}

    def variance(parts):
        came = Came(b"", {"a": 1.0, "b": 1.0}, {}, records, 2, 3, 1.5, buffered=parts)
        return noise_variance(specification, contents, came)

    together = mean_noise_variance(specification, 1.5, [40, 40], 3)
    assert together > 0
    assert variance([("a", 0.5), ("b", 0.5)]) == pytest.approx(together)
    alone = mean_noise_variance(specification, 1.5, [40], 3)
    assert variance([("a", 0.8), ("b", 0.2)]) == pytest.approx((0.64 + 0.04) * alone)
    assert variance([("a", 0.5), ("a", 0.5)]) == pytest.approx(together)
