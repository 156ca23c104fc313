"""An exported privacy ledger, a `shared.core.chain`: the replay that recomputes every figure.

A reservation counts from `reserved`; `committed` with fewer steps and `released` give the unused part back;
`expired` keeps it. Each line states the client's epsilon in the job after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.core.chain import GENESIS_SHA256, Fault, read
from shared.core.privacy.accountants import FIGURE_TOLERANCE
from shared.core.privacy.accountants.reference import epsilon
from shared.core.privacy.mechanisms import AdaptiveClipping, Mechanism, Pure, Skellam, composed, without

ACCOUNTANT_OF = {"epsilon": "pld", "epsilon_rdp": "rdp"}


@dataclass(frozen=True)
class ClientSpending:
    """One client's place in one job: spent and reserved together."""

    job_id: str
    client_id: str
    mechanisms: tuple[Mechanism, ...]
    delta: float
    epsilon_limit: float

    def epsilon(self, accountant: str = "pld") -> float:
        """Recomputed from the mechanisms, as `verify` does."""
        return epsilon(self.mechanisms, self.delta, accountant)


@dataclass(frozen=True)
class LedgerVerdict:
    """What a verification found. `spending` is complete only without faults."""

    entries: int
    head_sha256: str
    spending: tuple[ClientSpending, ...]
    faults: tuple[Fault, ...]


def verify(exported: bytes) -> LedgerVerdict:
    """Check an export of the whole ledger: every byte, the chain, the life of each reservation, and
    each stated epsilon, which is recomputed from the mechanisms by dp-accounting alone (once for each
    distinct composition, some 20 ms).

    Lines cut off the end leave a shorter valid ledger: compare `head_sha256` with a head seen before.
    """
    lines, faults = read(exported)
    head = lines[-1].entry_sha256 if lines else GENESIS_SHA256
    if faults:
        return LedgerVerdict(len(lines), head, (), tuple(faults))
    replay = _Replay()
    for number, line in enumerate(lines, start=1):
        try:
            replay.add(line.body)
        except _False as wrong:
            faults.append(Fault(number, str(wrong)))
    return LedgerVerdict(len(lines), head, replay.spending(), tuple(faults))


class _False(Exception):
    """The body of a line says what cannot be."""


@dataclass
class _Held:
    whose: tuple[str, str, str]  # job, client, round
    mechanism: Mechanism
    settled: bool = False


@dataclass
class _Replay:
    held: dict[str, _Held] = field(default_factory=dict)
    spent: dict[tuple[str, str], tuple[Mechanism, ...]] = field(default_factory=dict)
    bounds: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def add(self, body: Mapping[str, Any]) -> None:
        """Raises: _False when the line contradicts those before it, or its own mechanism."""
        try:
            outcome, reservation = body["outcome"], body["reservation"]
            whose = body["job"], body["client"], body["round"]
            stated = {name: float(body[name]) for name in ACCOUNTANT_OF}
            delta, limit = float(body["delta"]), float(body["epsilon_limit"])
            mechanism = _mechanism(body["mechanism"])
            after = self._after(outcome, reservation, whose, mechanism)
            found = {name: epsilon(after, delta, of) for name, of in ACCOUNTANT_OF.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise _False(f"it is not a reservation's entry: {error!r}") from None
        self.spent[whose[:2]], self.bounds[whose[:2]] = after, (delta, limit)
        for name, value in found.items():
            if not (abs(value - stated[name]) <= FIGURE_TOLERANCE or value == stated[name]):
                raise _False(f"it states {name} {stated[name]:.6f}; its mechanisms give {value:.6f}")
        if outcome == "reserved" and stated["epsilon"] > limit:
            raise _False(f"{whose[1]} passes its limit: epsilon {stated['epsilon']:.6f} of {limit:g}")

    def spending(self) -> tuple[ClientSpending, ...]:
        return tuple(ClientSpending(*key, self.spent[key], *self.bounds[key]) for key in sorted(self.spent))

    def _after(
        self, outcome: str, reservation: str, whose: tuple[str, str, str], mechanism: Mechanism
    ) -> tuple[Mechanism, ...]:
        """The client's composition once the line is counted."""
        spent = self.spent.get(whose[:2], ())
        held = self.held.get(reservation)
        if outcome == "reserved":
            if held is not None:
                raise _False(f"{reservation} is reserved twice")
            after = composed([*spent, mechanism])
            self.held[reservation] = _Held(whose, mechanism)
            return after
        if held is None or held.whose != whose:
            raise _False(f"{reservation} was not reserved by {whose[1]} for {whose[2]}")
        if held.settled:
            raise _False(f"{reservation} is settled twice")
        unused = held.mechanism.steps - mechanism.steps
        possible = {
            "committed": 0 <= unused < held.mechanism.steps,
            "expired": unused == 0,
            "released": mechanism.steps == 0,
        }
        if not possible.get(outcome, False):
            raise _False(f"{outcome} with {mechanism.steps} of {held.mechanism.steps} steps cannot be")
        if mechanism != replace(held.mechanism, steps=mechanism.steps):
            raise _False(f"{reservation} was reserved for another mechanism")
        held.settled = True
        return without(spent, replace(mechanism, steps=unused))


def _mechanism(values: Mapping[str, Any]) -> Mechanism:
    """What a line says was run."""
    kind, bits, moved = values["kind"], values.get("bits_noise_multiplier"), values.get("l2_sensitivity")
    if kind == "pure" and bits is None and moved is None:
        return Pure(values["sampling_rate"], values["noise_multiplier"], values["steps"])
    if kind != ("poisson-gaussian" if moved is None else "poisson-skellam"):
        raise ValueError(f"no mechanism {kind!r}")
    basics = values["sampling_rate"], values["noise_multiplier"], values["steps"]
    if moved is not None:
        return Skellam.of_any_dimension(*basics, moved)
    return Mechanism(*basics) if bits is None else AdaptiveClipping(*basics, bits_noise_multiplier=bits)
