"""FedProx, FedNova and SCAFFOLD, whose other half is at the clients, on clients with quadratic losses."""

import numpy as np
import pytest

from shared.core.optimisers import OPTIMISERS, Mean, Options, Participation, State, advance
from shared.core.optimisers.fednova import effective_steps, factor, weights
from shared.core.optimisers.fedprox import proximal
from shared.core.optimisers.scaffold import corrected, own
from shared.errors import Rejected

CLIENTS, D, RATE = 6, 4, 0.1


def problem(seed):
    """Client k's loss is sum(h_k (x - o_k)^2) / 2; the optimum of their mean is known."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 3, (CLIENTS, D)), rng.normal(0, 2, (CLIENTS, D)), rng


def test_the_proximal_gradient_by_hand():
    one = np.ones(2, np.float32)
    assert proximal(3 * one, 5 * one, 4 * one, 0.5).tolist() == [3.5, 3.5]
    assert proximal(3 * one, 5 * one, 4 * one, 0.0).tolist() == [3, 3]
    assert proximal(3 * one, 4 * one, 4 * one, 9.0).tolist() == [3, 3]  # the first step is never changed
    assert proximal(one, one, one, 1.0).dtype == np.float32


def test_more_pull_means_less_drift():
    curvature, optimum, _ = problem(31)
    lengths = []
    for strength in (0.0, 1.0, 5.0):
        anchor = np.zeros(D, np.float32)
        x = anchor
        for _ in range(50):
            gradient = (curvature[0] * (x - optimum[0])).astype(np.float32)
            x = x - np.float32(RATE) * proximal(gradient, x, anchor, strength)
        lengths.append(float(np.linalg.norm(x)))
    assert lengths[0] > lengths[1] > lengths[2] > 0


def test_nova_by_hand():
    # Steps 1 and 4, equal shares: 1/2 and 1/8 scale to 1 and 1/4; tau_eff 2.5 times sum(p/tau) 0.625.
    who = Participation(steps=(1.0, 4.0), clients=2)
    assert weights(who) == (1.0, 0.25)
    assert factor(who) == pytest.approx(1.5625)
    assert factor(Participation(steps=(3.0, 3.0, 3.0), clients=3)) == pytest.approx(1)
    assert effective_steps(7) == 7
    # rho = 0.5, two steps: the second step's gradient counts once, the first one's 1.5 times.
    assert effective_steps(2, 0.5) == pytest.approx(2.5)


def test_nova_of_a_secure_sum_is_the_papers_formula():
    print("seed 32")
    rng = np.random.default_rng(32)
    updates = rng.normal(size=(CLIENTS, D))
    who = Participation(
        steps=tuple(rng.integers(1, 9, CLIENTS).tolist()),
        weights=tuple(rng.uniform(0.2, 3, CLIENTS).tolist()),
        clients=CLIENTS,
    )
    w = np.array(weights(who))
    assert w.max() == 1 and w.min() > 0
    mean = Mean((w @ updates / w.sum()).astype(np.float32), 0.0, who)
    adapter, _ = advance(OPTIMISERS["fednova"], np.zeros(D, np.float32), State(), mean, Options(rate=0.7))
    p, tau = np.array(who.weights) / sum(who.weights), np.array(who.steps)
    np.testing.assert_allclose(adapter, 0.7 * (p @ tau) * ((p / tau) @ updates), rtol=1e-5)


def test_nova_reaches_the_optimum_that_unequal_steps_draw_fedavg_away_from():
    curvature, optimum, _ = problem(33)
    curvature[:] = 1.0
    steps, away = (1.0, 1.0, 1.0, 20.0, 20.0, 20.0), {}
    for name in ("fedavg", "fednova"):
        x, who = np.zeros(D, np.float32), Participation(steps, clients=CLIENTS)
        w = np.array(weights(who)) if name == "fednova" else np.ones(CLIENTS)
        for _ in range(400):
            rows = np.array([(1 - 0.001) ** k - 1 for k in steps])[:, None] * (x - optimum)
            mean = Mean((w @ rows / w.sum()).astype(np.float32), 0.0, who)
            x, _ = advance(OPTIMISERS[name], x, State(), mean, Options())
        away[name] = float(np.linalg.norm(x - optimum.mean(axis=0)))
    assert away["fednova"] < 0.05 * away["fedavg"]


def papers_scaffold(curvature, optimum, cohorts, steps):
    """Algorithm 1, option II, word for word: the server is sent every client's two differences."""
    x, c, own_controls = np.zeros(D), np.zeros(D), np.zeros((CLIENTS, D))
    for cohort in cohorts:
        moves, controls = [], []
        for k in cohort:
            y = x.copy()
            for _ in range(steps):
                y = y - RATE * (curvature[k] * (y - optimum[k]) - own_controls[k] + c)
            fresh = own_controls[k] - c + (x - y) / (steps * RATE)
            moves.append(y - x)
            controls.append(fresh - own_controls[k])
            own_controls[k] = fresh
        x = x + np.mean(moves, axis=0)
        c = c + len(cohort) / CLIENTS * np.mean(controls, axis=0)
    return x, c, own_controls


def ours(curvature, optimum, cohorts, steps):
    """The same where the server sees nothing but the mean update."""
    optimiser, x = OPTIMISERS["scaffold"], np.zeros(D, np.float32)
    state, kept = optimiser.start(D, Options()), np.zeros((CLIENTS, D))
    for cohort in cohorts:
        control, moves = state.moments["control"], []
        for k in cohort:
            y = x.astype(np.float64)
            for _ in range(steps):
                y = y - RATE * corrected(curvature[k] * (y - optimum[k]), control, kept[k]).astype(np.float64)
            moves.append((y - x).astype(np.float32))
            kept[k] = own(kept[k], control, moves[-1], steps * RATE)
        who = Participation((float(steps),) * len(cohort), clients=CLIENTS, rate=RATE)
        x, state = advance(optimiser, x, state, Mean(np.mean(moves, axis=0), 0.0, who), Options())
    return x, state.moments["control"], kept


def test_scaffolds_common_control_variate_follows_from_the_sum_alone():
    curvature, optimum, rng = problem(34)
    cohorts = [rng.choice(CLIENTS, rng.integers(1, CLIENTS + 1), replace=False) for _ in range(40)]
    theirs, mine = papers_scaffold(curvature, optimum, cohorts, 5), ours(curvature, optimum, cohorts, 5)
    for expected, found in zip(theirs, mine, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(mine[1], mine[2].mean(axis=0), atol=2e-5)  # c stays the mean of all c_k


def test_scaffold_reaches_the_optimum_that_fedavg_drifts_from():
    curvature, optimum, _ = problem(35)
    best = (curvature * optimum).sum(axis=0) / curvature.sum(axis=0)
    everyone = [np.arange(CLIENTS)] * 200
    averaged = np.zeros(D)
    for _ in everyone:
        averaged = np.mean(
            [optimum[k] + (1 - RATE * curvature[k]) ** 10 * (averaged - optimum[k]) for k in range(CLIENTS)],
            axis=0,
        )
    assert np.linalg.norm(ours(curvature, optimum, everyone, 10)[0] - best) < 1e-3
    assert np.linalg.norm(averaged - best) > 0.1


def test_scaffold_of_unequal_clients_is_rejected():
    optimiser = OPTIMISERS["scaffold"]
    for who in (Participation((1.0, 2.0), clients=2), Participation((2.0, 2.0), (1.0, 3.0), clients=2)):
        with pytest.raises(Rejected, match="equal"):
            optimiser.step(optimiser.start(2, Options()), Mean(np.ones(2, np.float32), 0.0, who), Options())
