"""An exported privacy ledger: its text, its chain, and the replay that recomputes every figure.

One line an entry, compact JSON: sequence, previous_sha256, entry_sha256, body. The hash is
SHA-256(previous || sequence as 8 bytes big-endian || body as canonical JSON). A reservation counts
from `reserved`; `committed` with fewer steps and `released` give the unused part back; `expired`
keeps it. Each line states the client's epsilon in the job after it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.core.privacy.accountants import FIGURE_TOLERANCE
from shared.core.privacy.accountants.reference import epsilon
from shared.core.privacy.mechanisms import AdaptiveClipping, Mechanism, Skellam, composed, without

GENESIS_SHA256 = "0" * 64
ACCOUNTANT_OF = {"epsilon": "pld", "epsilon_rdp": "rdp"}


@dataclass(frozen=True)
class LedgerLine:
    """One entry of the export."""

    sequence: int
    previous_sha256: str
    entry_sha256: str
    body: Mapping[str, Any]

    def digest(self) -> str:
        """What entry_sha256 must be."""
        content = bytes.fromhex(self.previous_sha256) + self.sequence.to_bytes(8, "big")
        return hashlib.sha256(content + canonical(self.body)).hexdigest()

    def text(self) -> str:
        """The one way in which this entry is written, without the line's end."""
        fields = {
            "sequence": self.sequence,
            "previous_sha256": self.previous_sha256,
            "entry_sha256": self.entry_sha256,
            "body": self.body,
        }
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class LedgerFault:
    """What is wrong with the export, and where.

    Attributes:
        line: number of the line in the file, from 1.
    """

    line: int
    reason: str


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
    faults: tuple[LedgerFault, ...]


def canonical(body: Mapping[str, Any]) -> bytes:
    """The one way in which a body is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def export(lines: Iterable[LedgerLine]) -> bytes:
    """The file."""
    return "".join(line.text() + "\n" for line in lines).encode()


def verify(exported: bytes) -> LedgerVerdict:
    """Check an export of the whole ledger: every byte, the chain, the life of each reservation, and
    each stated epsilon, which is recomputed from the mechanisms by dp-accounting alone (once for each
    distinct composition, some 20 ms).

    Lines cut off the end leave a shorter valid ledger: compare `head_sha256` with a head seen before.
    """
    lines, faults = _chain(exported)
    head = lines[-1].entry_sha256 if lines else GENESIS_SHA256
    if faults:
        return LedgerVerdict(len(lines), head, (), tuple(faults))
    replay = _Replay()
    for number, line in enumerate(lines, start=1):
        try:
            replay.add(line.body)
        except _False as wrong:
            faults.append(LedgerFault(number, str(wrong)))
    return LedgerVerdict(len(lines), head, replay.spending(), tuple(faults))


def _chain(exported: bytes) -> tuple[list[LedgerLine], list[LedgerFault]]:
    rows = exported.split(b"\n")
    last = rows.pop()
    lines: list[LedgerLine] = []
    faults: list[LedgerFault] = []
    sequence: int | None = 1  # of the next line; None after a line that cannot be read
    previous = {GENESIS_SHA256}
    for number, row in enumerate(rows, start=1):
        line = _read(row)
        if line is None:
            faults.append(LedgerFault(number, "it is not a ledger entry as the ledger writes one"))
            sequence, previous = None, set()
            continue
        digest = line.digest()
        reason = ""
        if sequence is not None and line.sequence != sequence:
            reason = f"entry {sequence} is missing or out of place, this is entry {line.sequence}"
        elif previous and line.previous_sha256 not in previous:
            reason = "it does not continue the entry before"
        elif digest != line.entry_sha256:
            reason = "its content does not match its hash"
        if reason:
            faults.append(LedgerFault(number, reason))
        # Either may be the true hash of a damaged line: the next line is not blamed for this one.
        sequence, previous = line.sequence + 1, {line.entry_sha256, digest}
        lines.append(line)
    if last:
        faults.append(LedgerFault(len(rows) + 1, "the line does not end"))
    return lines, faults


def _read(row: bytes) -> LedgerLine | None:
    try:
        value = json.loads(row.decode())
        line = LedgerLine(value["sequence"], value["previous_sha256"], value["entry_sha256"], value["body"])
        line.digest()
        whole = isinstance(line.body, dict) and line.text().encode() == row
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return line if whole else None


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
    if kind != ("poisson-gaussian" if moved is None else "poisson-skellam"):
        raise ValueError(f"no mechanism {kind!r}")
    basics = values["sampling_rate"], values["noise_multiplier"], values["steps"]
    if moved is not None:
        return Skellam.of_any_dimension(*basics, moved)
    return Mechanism(*basics) if bits is None else AdaptiveClipping(*basics, bits_noise_multiplier=bits)
