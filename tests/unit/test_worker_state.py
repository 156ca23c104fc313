from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from services.client import state
from services.client.state import LocalRound, Pinned
from shared.errors import Refused, Stale
from shared.events import RoundStarted
from shared.events.values import BlobRef, PoissonGaussian, Reservation

ROUND = LocalRound(
    started=RoundStarted(
        client_id="a", job_id="j", round_id="j-r1", group_id="j-r1-g1", number=1,
        adapter=BlobRef(sha256="ab" * 32, size_bytes=1), layout_sha256="cd" * 32,
        reservation=Reservation(
            reservation_id="s", client_id="a", epsilon_after=1, epsilon_limit=8, delta=1e-5,
            mechanism=PoissonGaussian(sampling_rate=0.1, noise_multiplier=1, steps=1),
        ),
        aggregation_key=b"k" * 32, deadline=datetime(2026, 1, 1, tzinfo=UTC),
    )
)  # fmt: skip


@pytest.mark.parametrize("first", ["submitted", "declined", "closed"])
@pytest.mark.parametrize("second", ["submitted", "declined", "closed"])
def test_a_round_ends_once(first, second):
    with pytest.raises(Stale):
        state.ended(state.ended(ROUND, first), second)


def test_the_first_aggregation_key_is_trusted_and_another_refused():
    pinned = state.pinned_key(Pinned(), b"k" * 32)
    assert state.pinned_key(pinned, b"k" * 32) == pinned
    with pytest.raises(Refused):
        state.pinned_key(pinned, b"x" * 32)


def test_bits_with_less_noise_than_the_whole_step_are_no_mechanism():
    with pytest.raises(ValidationError, match="leave none for the sum"):
        PoissonGaussian(sampling_rate=0.1, noise_multiplier=1.0, bits_noise_multiplier=0.9, steps=1)
    kept = PoissonGaussian(sampling_rate=0.1, noise_multiplier=1.0, bits_noise_multiplier=10.0, steps=1)
    assert PoissonGaussian.of(kept.core()) == kept
