"""`fedlora plan`: what a job will cost in privacy and in noise, before anyone trains."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora.console import emit_json, out, say, table
from fedlora.faults import Fault
from fedlora.jobs import AsJson, JobFile
from fedlora.plots import lines
from shared.core.privacy import (
    AdaptiveClipping,
    Mechanism,
    NoiseNotFound,
    Skellam,
    epsilon,
    epsilon_curve,
    rounds_left,
)
from shared.core.privacy.statements import share_alone
from shared.errors import Refused
from shared.events.values import PoissonSampled
from shared.job.evaluation import (
    beside_by_one_share,
    beside_rounds,
    beside_training,
    largest_loss,
    noise_on_sums,
    planned_evaluations,
    votes,
)
from shared.job.loading import JobFileError, Problem, load_job
from shared.job.plan import honest_survivors, least_planned_noise, planned_noise, planned_steps
from shared.job.refusals import refusals
from shared.job.specification import JobSpecification

SHOWN = ("pld", "rdp")  # accountants: the one that decides, and its cross-check
POINTS = 10
BAR = 40  # characters
RARE = 0.001  # chance of an empty sample that is worth a line


@dataclass(frozen=True)
class Nearby:
    """The same job with one setting moved, and the least noise that keeps it under epsilon.

    Attributes:
        setting: dotted name; empty for the job as it is.
        of_average: noise on the average of a batch, over that of the job as it is.
    """

    setting: str
    value: float
    noise_multiplier: float
    of_average: float


@dataclass(frozen=True)
class Plan:
    """What follows from a job file.

    Attributes:
        a_round: what one client runs in one round.
        curve: (rounds, epsilon by each accountant) after some of the rounds, the last included.
        more_rounds: that would fit after the plan at its noise.
        nearby: the job as it is first.
        records: the smallest record count of a client, if it was given.
        refused: what makes the job impossible for that many records.
        shares: honest survivors that noise is divided over; None where each client's is its own.
    """

    job: JobSpecification
    a_round: Mechanism
    curve: tuple[tuple[int, dict[str, float]], ...]
    more_rounds: int
    nearby: tuple[Nearby, ...]
    records: int | None
    refused: tuple[Refused, ...]
    shares: int | None = None

    @property
    def alone(self) -> float | None:
        """Epsilon of the plan by one client's share of divided noise, where secure aggregation fails."""
        if self.shares is None:
            return None
        whole = replace(self.a_round, steps=self.a_round.steps * self.job.rounds.count)
        beside = beside_by_one_share(self.job)
        return share_alone(whole, self.shares, self.job.privacy.delta, beside)

    @property
    def evaluations(self) -> dict[str, float]:
        """Epsilon of all evaluations alone, by each accountant; 0 without any."""
        return {name: epsilon(beside_training(self.job), self.job.privacy.delta, name) for name in SHOWN}

    @property
    def spent(self) -> dict[str, float]:
        """Epsilon of the whole plan, its evaluations included, by each accountant."""
        return self.curve[-1][1]

    @property
    def expected_batch(self) -> float | None:
        """Records of a step, on average."""
        return None if self.records is None else self.job.privacy.sampling_rate * self.records

    @property
    def empty_chance(self) -> float:
        """That a step draws no record."""
        return 0.0 if self.records is None else (1 - self.job.privacy.sampling_rate) ** self.records


def plan(
    file: JobFile,
    records: Annotated[int | None, typer.Option(min=1, help="the fewest records that a client has")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw epsilon against rounds to FILE.svg")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a job will cost before anyone trains: noise, epsilon round by round, what fits."""
    if plot is not None and plot.suffix.lower() != ".svg":
        raise Fault(f"{plot}: plots are drawn as SVG", f"name it {plot.with_suffix('.svg').name}")
    job = load_job(file)
    with out.status("computing the plan") if out.is_terminal and not as_json else contextlib.nullcontext():
        found = plan_of(job, records)
    if plot is not None:
        _write(plot, drawn(found))
    if as_json:
        emit_json(as_tree(found))
    else:
        _say(found)
    if found.refused:
        problems = (Problem(None, one.field, one.reason, one.remedy) for one in found.refused)
        raise JobFileError(str(file), tuple(problems))


def plan_of(job: JobSpecification, records: int | None = None) -> Plan:
    """Compute everything. Raises: NoiseNotFound when no noise meets the job's epsilon."""
    privacy, rounds = job.privacy, job.rounds.count
    a_round = PoissonSampled.of_round(job, planned_noise(job)).core()

    def beside(count: int) -> tuple[Mechanism, ...]:
        return beside_rounds(job, count)

    by_name = {
        name: epsilon_curve(a_round, rounds, privacy.delta, name, points=POINTS, beside=beside)
        for name in SHOWN
    }
    after = [int(count) for count in by_name["pld"][0]]
    figures = [{name: float(by_name[name][1][at]) for name in by_name} for at in range(len(after))]
    whole = replace(a_round, steps=a_round.steps * rounds)
    return Plan(
        job=job,
        a_round=a_round,
        curve=tuple(zip(after, figures, strict=True)),
        more_rounds=rounds_left(
            [whole], a_round, privacy.epsilon, privacy.delta, beside=lambda more: beside(rounds + more)
        ),
        nearby=tuple(nearby(job)),
        records=records,
        refused=refusals(job, records),
        shares=honest_survivors(job) if isinstance(a_round, Skellam) else None,
    )


def nearby(job: JobSpecification) -> Iterator[Nearby]:
    """The job as it is, then one setting at a time: half or twice the rate, a fifth or a half fewer."""
    rate, steps, count = job.privacy.sampling_rate, job.training.local_steps, job.rounds.count
    least = least_planned_noise(job)
    yield Nearby("", 0, least, 1.0)
    for setting, value in (
        *(("privacy.sampling_rate", new) for new in _rates(rate)),
        *(("rounds.count", new) for new in _fewer(count)),
        *(("training.local_steps", new) for new in _fewer(steps)),
    ):
        moved = _moved(job, setting, value)
        try:
            noise = least_planned_noise(moved)
        except NoiseNotFound:
            continue
        yield Nearby(setting, value, noise, (noise / moved.privacy.sampling_rate) / (least / rate))


def _moved(job: JobSpecification, setting: str, value: float) -> JobSpecification:
    block, name = setting.split(".")
    return job.model_copy(update={block: getattr(job, block).model_copy(update={name: value})})


def _rates(rate: float) -> list[float]:
    return [float(f"{new:.4g}") for new in (rate / 2, rate * 2) if new <= 1]


def _fewer(count: int) -> list[int]:
    return [new for new in sorted({count * 4 // 5, count // 2}, reverse=True) if new >= 1]


def drawn(found: Plan) -> str:
    """Epsilon against rounds, as SVG."""
    series = {
        name.upper(): [(0.0, 0.0)]
        + [(float(rounds), spent[name]) for rounds, spent in found.curve if math.isfinite(spent[name])]
        for name in SHOWN
    }
    return lines(series, "rounds", "epsilon", found.job.privacy.epsilon)


def as_tree(found: Plan) -> dict[str, Any]:
    """The plan for a program; figures that are infinite are null."""
    job = found.job
    return {
        "job": job.name,
        "rounds": job.rounds.count,
        "steps": planned_steps(job),
        "sampling_rate": job.privacy.sampling_rate,
        "delta": job.privacy.delta,
        "epsilon_limit": job.privacy.epsilon,
        "noise_multiplier": found.a_round.noise_multiplier,
        "noise": job.privacy.noise,
        "honest_survivors": found.shares,
        "epsilon_by_one_share": found.alone if found.alone is None or math.isfinite(found.alone) else None,
        "least_noise_multiplier": found.nearby[0].noise_multiplier,
        "epsilon": _finite(found.spent),
        "evaluations": planned_evaluations(job),
        "epsilon_of_evaluations": _finite(found.evaluations),
        "curve": [{"rounds": rounds, **_finite(spent)} for rounds, spent in found.curve],
        "more_rounds": found.more_rounds,
        "records": found.records,
        "expected_batch": found.expected_batch,
        "nearby": [vars(one) for one in found.nearby[1:]],
        "refused": [vars(one) for one in found.refused],
    }


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _say(found: Plan) -> None:
    job, privacy = found.job, found.job.privacy
    say(
        f"{job.name}: {job.rounds.count} rounds of {job.training.local_steps} steps, "
        f"sampling rate {privacy.sampling_rate:g}, epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
    )
    least = found.nearby[0].noise_multiplier
    why = "the least under epsilon" if privacy.noise_multiplier == "auto" else f"given; {least:g} would do"
    say(f"noise multiplier {found.a_round.noise_multiplier:g} ({why})")
    if isinstance(found.a_round, AdaptiveClipping):
        say(f"  of the gradients alone {found.a_round.gradient_noise_multiplier:.4f}: clipping bits share it")
    _say_divided(found)
    spent = found.spent
    if found.shares:
        say(f"epsilon {spent['rdp']:.3f} by RDP, which decides: noise on integers has no PLD here")
    else:
        say(
            f"epsilon {spent['pld']:.3f} by PLD, which decides; {spent['rdp']:.3f} by RDP, the looser "
            "cross-check"
        )
    _say_evaluations(found)
    say(f"more rounds that fit at this noise: {found.more_rounds}")
    if found.expected_batch is not None:
        say(f"expected batch {privacy.sampling_rate:g} x {found.records} records = {found.expected_batch:g}")
        if found.empty_chance >= RARE:
            say(f"  a step draws no record at all with probability {found.empty_chance:.1%}: noise alone")
    out.print()
    _say_curve(found)
    out.print()
    _say_nearby(found)


def _say_divided(found: Plan) -> None:
    """What each client adds, and what is left of the guarantee when secure aggregation fails."""
    if not found.shares:
        return
    own = found.a_round.noise_multiplier / math.sqrt(found.shares)
    say(
        f"  of a sum over clients, after rounding; each adds 1/{found.shares} of its variance, and counts on "
        f"{found.shares} that keep to the protocol"
    )
    say(f"  if secure aggregation fails, its own {own:.4g} is all: epsilon {found.alone:.3f}")


def _say_evaluations(found: Plan) -> None:
    """How much of epsilon they are, and how well they tell what they ask."""
    job, count = found.job, planned_evaluations(found.job)
    if not count:
        return
    alone = found.evaluations["rdp" if found.shares else "pld"]
    if votes(job):
        say(
            f"  of it clients' votes when to stop: epsilon {alone:.3f} if they were all, paid once; noise on "
            f"a client's losses has a scale of {8 / (job.evaluation.stop_epsilon or 1):.3g} records x "
            f"{largest_loss(job):.3g} nats"
        )
        return
    fewest = job.rounds.min_clients
    say(
        f"  of it {count} evaluation{'s' if count > 1 else ''}: epsilon {alone:.3f} if they were all; "
        f"each sum over {fewest} clients has noise of {noise_on_sums(job, fewest):.3g} records"
    )


def _say_curve(found: Plan) -> None:
    limit = found.job.privacy.epsilon
    top = max(
        [limit, *(value for _, spent in found.curve for value in spent.values() if math.isfinite(value))]
    )
    names = SHOWN[1:] if found.shares else SHOWN
    drawn_as = "  ".join(f"{mark} {name.upper()}" for mark, name in zip("#-", names, strict=False))
    heads = (f"epsilon ({name.upper()})" for name in names)
    rows = table("rounds", *heads, f"{drawn_as}  | {limit:g} is allowed")
    for rounds, spent in found.curve:
        bar = _bar(spent["pld"] / top, spent["rdp"] / top, limit / top)
        rows.add_row(str(rounds), *(f"{spent[name]:.3f}" for name in names), bar)
    out.print(rows)


def _bar(pld: float, rdp: float, limit: float) -> str:
    """Shares of the full width as characters, the limit marked."""
    filled, dashed = (round(min(share, 1.0) * BAR) for share in (pld, rdp))
    bar = list(("#" * filled).ljust(dashed, "-").ljust(BAR + 1))
    bar[round(limit * BAR)] = "|"
    return "".join(bar).rstrip()


def _say_nearby(found: Plan) -> None:
    rows = table("the same job with", "least noise multiplier", "noise on a batch's average")
    for one in found.nearby:
        name = f"{one.setting}: {one.value:g}" if one.setting else "nothing changed"
        change = f"{one.of_average - 1:+.0%}".replace("-0%", "+0%") if one.setting else ""
        rows.add_row(name, f"{one.noise_multiplier:g}", change)
    out.print(rows)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Fault(
            f"{file} cannot be written: {error.strerror}", "name a file in a folder that exists"
        ) from None
