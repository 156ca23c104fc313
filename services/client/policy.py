"""The owner's policy, worker.toml: what this worker does for a federation, whatever the server asks."""

import difflib
import math
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import Refused
from shared.job.plan import noise_shares
from shared.job.refusals.divided import divided
from shared.job.specification import JobSpecification


class Policy(BaseModel):
    """Bounds on a job. An empty `allowed_models` allows every model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    largest_epsilon: float = Field(10.0, gt=0)  # of one job, over all its rounds
    largest_delta: float = Field(1e-5, gt=0, lt=1)
    lifetime_epsilon: float = Field(10.0, gt=0)  # of all jobs together, at largest_delta
    least_noise_multiplier: float = Field(0.0, ge=0)  # of the worker's own noise, its share of divided one
    allowed_models: tuple[str, ...] = ()
    allowed_secure_protocols: tuple[str, ...] = ("oneshot", "secagg", "mpc3")  # none must be named
    allowed_noise: tuple[str, ...] = ("local", "divided")  # divided protects by secure aggregation alone
    declared_records: int | None = Field(None, ge=1)  # public; default: counted once, then remembered


def parse_policy(text: str) -> Policy:
    """The policy in `text`, TOML. Raises: Refused naming the line, what is wrong, and the fix."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused("worker.toml", str(error), "write one `name = value` a line") from None
    for name in found:
        if name not in Policy.model_fields:
            near = difflib.get_close_matches(name, Policy.model_fields, n=1)
            known = near[0] if near else ", ".join(Policy.model_fields)
            raise Refused(f"worker.toml line {_line_of(name, text)}", f"unknown key {name}", f"write {known}")
    try:
        return Policy.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        default = Policy.model_fields[name].default
        raise Refused(
            f"worker.toml line {_line_of(name, text)}",
            f"{name}: {first['msg']}",
            f"the default is {default!r}",
        ) from None


def read_policy(path: Path | None) -> Policy:
    """The policy in the file, or the defaults without one. Raises: Refused."""
    if path is None:
        return Policy()
    try:
        return parse_policy(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(path.name, f"cannot be read: {type(error).__name__}", "name a TOML file") from None


def own_epsilon(job: JobSpecification, policy: Policy) -> float | None:
    """The owner's, where the job lets clients have a smaller one than its own, and the owner's is smaller."""
    privacy, largest = job.privacy, policy.largest_epsilon
    personal = privacy.personal_budgets and privacy.clipping != "adaptive"
    return largest if personal and largest < privacy.epsilon else None


def check(
    job: JobSpecification, noise_multiplier: float, policy: Policy, epsilon: float | None = None
) -> Refused | None:
    """Why the owner's policy forbids the job, or None.

    Args:
        job: as it was announced.
        noise_multiplier: of this client.
        policy: the owner's.
        epsilon: of this client, where it is less than the job's.
    """
    privacy, epsilon = job.privacy, job.privacy.epsilon if epsilon is None else epsilon
    if epsilon > policy.largest_epsilon:
        return _over("privacy.epsilon", epsilon, "at most", policy.largest_epsilon)
    if privacy.delta > policy.largest_delta:
        return _over("privacy.delta", privacy.delta, "at most", policy.largest_delta)
    unsound = next(divided(job), None)  # a server that accepted the job may not have looked
    if unsound is not None:
        return unsound
    own = noise_multiplier / math.sqrt(noise_shares(job))
    if own < policy.least_noise_multiplier:
        return _over("noise_multiplier", own, "at least", policy.least_noise_multiplier)
    for field, asked, allowed in (
        ("model.base", job.model.base, policy.allowed_models or (job.model.base,)),
        ("aggregation.secure", job.aggregation.secure, policy.allowed_secure_protocols),
        ("privacy.noise", privacy.noise, policy.allowed_noise),
    ):
        if asked not in allowed:
            names = ", ".join(allowed) or "nothing"
            return Refused(field, f"the owner does not allow {asked}", f"allowed: {names}")
    return None


def _over(field: str, asked: float, bound: str, allowed: float) -> Refused:
    return Refused(field, f"{asked:g} is asked, the owner allows {bound} {allowed:g}", f"set {allowed:g}")


def _line_of(name: str, text: str) -> int:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip().strip("[]\"'").startswith(name):
            return number
    return 1
