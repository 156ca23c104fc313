from hypothesis import given, settings
from hypothesis import strategies as st

from services.client import ledger as ledgers
from services.client.ledger import Ledger, spent
from services.client.policy import Policy
from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.filters import LIFETIME_ORDER, RenyiFilter
from shared.errors import Refused
from shared.events.values import PoissonSampled, Reservation

ROUND = PoissonSampled(sampling_rate=0.1, noise_multiplier=1.0, steps=4)
LIMIT = epsilon([Mechanism(0.1, 1.0, 12)], 1e-5)


def reservation(number, mechanism):
    return Reservation(
        reservation_id=f"s{number}", client_id="a", mechanism=mechanism,
        epsilon_after=0, epsilon_limit=LIMIT, delta=1e-5,
    )  # fmt: skip


mechanisms = st.builds(
    PoissonSampled,
    sampling_rate=st.sampled_from([0.05, 0.1, 0.2]),
    noise_multiplier=st.sampled_from([0.5, 1.0, 2.0]),
    steps=st.sampled_from([1, 4, 8]),
)
actions = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "commit", "release", "restart"]),
        st.integers(1, 6),
        mechanisms | st.just(ROUND),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(actions)
def test_no_interleaving_restart_or_duplicate_overspends_or_repeats_a_round(steps):
    ledger = Ledger(job_id="j", epsilon=LIMIT, delta=1e-5, announced=ROUND)
    uploads = []
    for action, number, mechanism in steps:
        try:
            if action == "reserve":
                ledger = ledgers.reserve(ledger, f"r{number}", reservation(number, mechanism), [], Policy())
            elif action == "commit":
                ledger = ledgers.commit(ledger, f"r{number}", mechanism.steps)
                entry = next(e for e in ledger.entries if e.round_id == f"r{number}")
                uploads.append((number, entry.mechanism))
            elif action == "release":
                ledger = ledgers.release(ledger, f"r{number}")
            else:
                ledger = Ledger.model_validate(ledger.model_dump())
        except (Refused, ValueError):
            continue
        assert spent(ledger) <= LIMIT
    assert len({number for number, _ in uploads}) == len(uploads)
    left = [Mechanism(m.sampling_rate, m.noise_multiplier, m.steps) for _, m in uploads]
    assert epsilon(left, 1e-5) <= LIMIT
    assert all(m.noise_multiplier >= 1.0 and m.sampling_rate <= 0.1 for m in left)


def opened(job, rounds, policy):
    """A job's ledger with as many of `rounds` as the worker accepts beside its `others`."""

    def add(others):
        ledger = Ledger(job_id=job, epsilon=10, delta=1e-5, announced=ROUND)
        for number in range(rounds):
            try:
                asked = reservation(f"{job}{number}", ROUND)
                ledger = ledgers.reserve(ledger, f"{job}-r{number}", asked, others, policy)
            except Refused as refused:
                assert "over all jobs" in str(refused)
                break
        return ledger

    return add


@settings(deadline=None, max_examples=20)
@given(st.floats(0.5, 6), st.lists(st.integers(1, 8), min_size=2, max_size=5))
def test_many_small_jobs_do_not_pass_what_the_owner_allows_together(lifetime, jobs):
    policy = Policy(lifetime_epsilon=lifetime)
    found = []
    for number, rounds in enumerate(jobs):
        found.append(opened(f"j{number}", rounds, policy)(found))
    everything = [entry.mechanism.core() for ledger in found for entry in ledger.entries]
    assert epsilon(everything, policy.largest_delta) <= lifetime
    in_use = [ledger for ledger in found if ledger.entries]
    if len(in_use) > 1:
        budget = RenyiFilter(lifetime, policy.largest_delta, LIFETIME_ORDER)
        assert budget.spent(everything) <= budget.limit


def test_one_job_may_use_its_whole_plan_and_then_no_other_begins():
    steps = 4 * 12
    policy = Policy(lifetime_epsilon=epsilon([Mechanism(0.1, 1.0, steps)], 1e-5))
    first = opened("a", 20, policy)([])
    assert len(first.entries) == 12
    assert not opened("b", 1, policy)([first]).entries
