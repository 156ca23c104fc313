"""What streaming rules cost after the last update and before: `python benchmarks/robust.py [n] [d]`.

One thread, CPU time of this process and wall time in milliseconds; the best and the median of several. Work
that is done while updates arrive is given for one update, the mean of all. The total is the CPU time of all
updates and of the result; for order statistics with screening and quantising. Ratios are of the best CPU
times of one run, on the same updates: a peer does everything after the last one. Results are compared before
anything is timed.

torch, ByzFL and Flower are measured where installed; of ByzFL only the module of its rules is loaded.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
from scipy import stats

from shared.core.robust.streaming import columns, gram, histogram, quantised
from shared.core.robust.streaming.screening import refusal
from shared.core.secagg.mpc3 import sketch

UPDATES, DIMENSION, REPEATS, PEER_REPEATS, SIGMA = 1000, 100_000, 15, 3, 1e-3
BOUND = 4 * SIGMA  # of a coordinate, for quantising
HOSTILE = 0.3  # of all updates: what a trim takes away on each side
COMPARED = 500  # coordinates
SKETCHES = (512, 1024)


def measured(name: str, task: Callable[[], object], repeats: int = REPEATS, over: int = 1) -> float:
    """Print CPU and wall time, divided by `over`. Returns: the best CPU time."""
    if repeats > PEER_REPEATS:
        task()
    cpu_ms, wall_ms = [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        task()
        cpu_ms.append((time.process_time() - cpu) * 1e3 / over)
        wall_ms.append((time.perf_counter() - wall) * 1e3 / over)
    print(
        f"  {name:52} CPU {min(cpu_ms):9.3f} (median {statistics.median(cpu_ms):9.3f})"
        f"   wall {min(wall_ms):9.3f} (median {statistics.median(wall_ms):9.3f})",
        flush=True,
    )
    return min(cpu_ms)


def streamed(
    name: str, start: Callable[[], Any], absorb: Callable[[Any, Any], Any], updates: np.ndarray
) -> tuple[Any, float]:
    """Take all updates twice; the second time is printed. Returns: the state, and the cost of one update."""
    held: list[Any] = []

    def task() -> None:
        held[:] = [start()]
        for update in updates:
            held[0] = absorb(held[0], update)

    task()
    return held, measured(f"{name}: one update", task, 1, len(updates))


def installed(name: str) -> ModuleType | None:
    """A module, where it can be imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def byzfl_rules() -> ModuleType | None:
    """ByzFL's aggregators, without its package, which imports torchvision."""
    spec = importlib.util.find_spec("byzfl") if "byzfl" not in sys.modules else None
    if spec is not None and spec.submodule_search_locations is not None:
        sys.modules["byzfl"] = ModuleType("byzfl")
        sys.modules["byzfl"].__path__ = list(spec.submodule_search_locations)
    return installed("byzfl.aggregators.aggregators")


def peers(updates: np.ndarray, trim: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """What others do with the same rows: by rule, by name."""
    count = len(updates)
    middle = ((count - 1) // 2, count // 2)
    found: dict[str, dict[str, Callable[[], Any]]] = {
        "median": {
            "np.median": lambda: np.median(updates, axis=0),
            "np.partition": lambda: np.partition(updates, middle, axis=0)[list(middle)].mean(axis=0),
        },
        "trimmed mean": {
            "np.sort": lambda: np.sort(updates, axis=0)[trim : count - trim].mean(axis=0),
            "np.partition": lambda: np.partition(updates, (trim, count - trim - 1), axis=0)[
                trim : count - trim
            ].mean(axis=0),
            "scipy.stats.trim_mean": lambda: stats.trim_mean(updates, (trim + 0.5) / count, axis=0),
        },
    }
    torch = installed("torch")
    if torch is not None:
        torch.set_num_threads(1)
        rows = torch.from_numpy(updates)
        found["median"]["torch.sort"] = lambda: torch.sort(rows, dim=0).values[list(middle)].double().mean(0)
        found["trimmed mean"]["torch.sort"] = lambda: (
            torch.sort(rows, dim=0).values[trim : count - trim].mean(dim=0, dtype=torch.float64)
        )
    byzfl = byzfl_rules()
    if byzfl is not None:
        found["median"]["ByzFL Median"] = lambda: byzfl.Median()(updates)
        found["trimmed mean"]["ByzFL TrMean"] = lambda: byzfl.TrMean(trim)(updates)
    flower = installed("flwr.server.strategy.aggregate")
    if flower is not None:
        results = [([row], 1) for row in updates]
        found["median"]["Flower aggregate_median"] = lambda: flower.aggregate_median(results)[0]
        found["trimmed mean"]["Flower aggregate_trimmed_avg"] = lambda: flower.aggregate_trimmed_avg(
            results, (trim + 0.5) / count
        )[0]
    return found


def timed(found: dict[str, dict[str, Callable[[], Any]]], kind: str) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each peer, by rule."""
    return {
        rule: {
            f"{name}, {kind}": measured(f"{rule}: {name}, {kind}", task, PEER_REPEATS)
            for name, task in tasks.items()
        }
        for rule, tasks in found.items()
    }


def bench_order_statistics(
    module: ModuleType,
    updates: np.ndarray,
    real: np.ndarray,
    trim: int,
    on_floats: dict[str, dict[str, float]],
) -> None:
    """One of the two ways, against all peers on its integers, and on the float32 rows as measured before."""
    count, dimension = updates.shape
    print(f"{module.__name__.rsplit('.', 1)[-1]}: {updates.dtype}, trim {trim}")

    def start() -> Any:
        return (
            histogram.empty(dimension)
            if module is histogram
            else columns.empty(dimension, max(count, module.BLOCK))
        )

    def absorb(state: Any, row: np.ndarray) -> Any:
        assert refusal(row, dimension, np.float32, 127.0) is None
        return module.absorb(state, quantised.quantise(row, BOUND, updates.dtype.type))

    held, one = streamed("screen, quantise, take", start, absorb, real)
    state = held[0]
    arrays = (state.counts if module is histogram else state.values).nbytes + state.block.nbytes
    print(f"  {arrays / 1e6:.1f} MB, {count % module.BLOCK} updates in the last block")
    rules = {
        "median": lambda: module.median(state),
        "trimmed mean": lambda: module.trimmed_mean(state, trim),
    }
    part = peers(updates[:, :COMPARED].astype(np.float64), trim)
    for rule, task in rules.items():
        for name, plain in part[rule].items():
            np.testing.assert_allclose(
                task()[:COMPARED], np.asarray(plain()), rtol=1e-12, atol=1e-9, err_msg=name
            )
    own = {rule: measured(f"{rule}: after the last update", task) for rule, task in rules.items()}
    full = replace(state, count=max(count // module.BLOCK, 1) * module.BLOCK - 1)
    measured(f"median: with {module.BLOCK - 1} updates in the last block", lambda: module.median(full))
    on_integers = timed(peers(updates, trim), updates.dtype.name)
    for rule, after in own.items():
        total = one * count + after
        print(f"  {rule}: CPU in total {total:.1f}, {total / count:.3f} an update; peers need")
        for name, cost in (on_integers[rule] | on_floats[rule]).items():
            print(f"    {name:48} {cost / after:6.1f} x after the last, {cost / total:5.1f} x in total")


def bench_gram(rows: dict[str, np.ndarray]) -> None:
    """Whole and sketched, against the whole product at once."""
    real = rows["float32"]
    count, dimension = real.shape
    print("Gram matrix")
    plain = real @ real.T
    norms = np.diag(plain)
    distances = norms[:, None] + norms[None] - 2 * plain
    pairs = np.triu_indices(count, 1)
    peer = measured("float32 rows times their transpose, at once", lambda: real @ real.T, PEER_REPEATS)
    cases = (
        [(kind, None) for kind in rows] + [("float32", size) for size in SKETCHES] + [("int8", SKETCHES[-1])]
    )
    for kind, size in cases:
        drawn = sketch.draw(bytes(32), dimension, size) if size else None
        label = f"{kind}, {f'k = {size}' if size else 'whole'}"

        def start(kind: str = kind, drawn: sketch.Sketch | None = drawn) -> gram.Gram:
            return gram.empty(dimension, count, kind, drawn)

        held, one = streamed(label, start, gram.absorb, rows[kind])
        state = held[0]
        full = replace(state, count=min(count, max(count // gram.BLOCK, 1) * gram.BLOCK - 1))
        own = measured(f"{label}: after the last update", lambda s=state: gram.matrix(s), 5)
        measured(f"{label}: with {gram.BLOCK - 1} in the last block", lambda s=full: gram.matrix(s), 5)
        print(
            f"      {peer / own:.0f} times as long at once; total CPU "
            f"{one * count + own:.1f}; rows {state.rows.nbytes / 1e6:.1f} MB",
            end="",
        )
        found = gram.matrix(state)
        lengths = np.diag(found)
        errors = (lengths[:, None] + lengths[None] - 2 * found)[pairs] / distances[pairs]
        print(f"; squared distances off by {(errors / np.median(errors) - 1).std():.2%}")


def main() -> None:
    """Print what is measured."""
    count, dimension = (int(given) for given in (*sys.argv[1:], *(UPDATES, DIMENSION)[len(sys.argv) - 1 :]))
    rng = np.random.default_rng(7)
    real = rng.standard_normal((count, dimension), dtype=np.float32) * np.float32(SIGMA)
    rows = {"float32": real}
    for kind in (np.int8, np.int16):
        rows[np.dtype(kind).name] = np.array([quantised.quantise(row, BOUND, kind) for row in real])
    print(f"n = {count}, d = {dimension}; milliseconds, one thread")
    measured("screen an update", lambda: refusal(real[0], dimension, np.float32, 127.0))
    measured("quantise an update, int8", lambda: quantised.quantise(real[0], BOUND, np.int8))
    bench_gram(rows)
    trim = int(HOSTILE * count)
    print("peers on the float32 rows")
    on_floats = timed(peers(real, trim), "float32")
    bench_order_statistics(histogram, rows["int8"], real, trim, on_floats)
    bench_order_statistics(columns, rows["int16"], real, trim, on_floats)


if __name__ == "__main__":
    main()
