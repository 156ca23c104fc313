"""An exported ledger: JSON lines whose hashes chain each to the one before."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedlora.faults import EXIT_TROUBLE, Fault
from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.ledger import GENESIS_SHA256, LedgerLine


def parse_ledger(text: str, source: str) -> list[LedgerLine]:
    """Read an export. Raises: Fault with the number of the line that is not an entry."""
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            value = json.loads(line)
            entry = LedgerLine(
                int(value["sequence"]), value["previous_sha256"], value["entry_sha256"], dict(value["body"])
            )
            bytes.fromhex(entry.previous_sha256)
        except (ValueError, KeyError, TypeError):
            raise Fault(
                f"{source}: line {number} is not a ledger entry", "export it with `fedlora ledger export`"
            ) from None
        lines.append(entry)
    return lines


def verify_chain(lines: Sequence[LedgerLine], source: str) -> str:
    """Check every hash and that none is missing; one line that says what was found.

    Raises: Fault at the first entry that was changed, moved, removed or added.
    """
    previous, expected = GENESIS_SHA256, 1
    for line in lines:
        if line.sequence != expected:
            raise _broken(source, line, f"entry {expected} is missing or out of place")
        if line.previous_sha256 != previous:
            raise _broken(source, line, "it does not continue the entry before")
        if line.digest() != line.entry_sha256:
            raise _broken(source, line, "its content does not match its hash")
        previous, expected = line.entry_sha256, expected + 1
    head = f", head {previous[:16]}" if lines else ""
    return f"{len(lines)} entries, chain intact{head}"


def recompute(lines: Iterable[LedgerLine], source: str) -> dict[tuple[str, str], float]:
    """Each client's epsilon in each job, by PLD, from the mechanisms alone.

    The last entry of a reservation counts; what was released was never spent.
    Raises: Fault when an entry has no mechanism, or a client passed its limit.
    """
    latest: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        latest[str(line.body.get("reservation"))] = line.body
    spent: dict[tuple[str, str], list[Mechanism]] = {}
    bounds: dict[tuple[str, str], tuple[float, float]] = {}
    for body in latest.values():
        try:
            key, mechanism = (str(body["job"]), str(body["client"])), body["mechanism"]
            bounds[key] = float(body["delta"]), float(body["epsilon_limit"])
            rate, noise = float(mechanism["sampling_rate"]), float(mechanism["noise_multiplier"])
            release = Mechanism(rate, noise, int(mechanism["steps"]))
        except (KeyError, TypeError, ValueError):
            raise Fault(f"{source}: an entry names no mechanism", "", EXIT_TROUBLE) from None
        if body["outcome"] != "released" and release.steps:
            spent.setdefault(key, []).append(release)
    found = {key: epsilon(mechanisms, bounds[key][0]) for key, mechanisms in spent.items()}
    for (job, client), value in found.items():
        if value > bounds[job, client][1] + 1e-9:
            reason = f"{client} has spent epsilon {value:.4f} of {bounds[job, client][1]:g} in {job}"
            raise Fault(f"{source}: {reason}", "", EXIT_TROUBLE)
    return found


def _broken(source: str, line: LedgerLine, reason: str) -> Fault:
    return Fault(f"{source}: the ledger is broken at entry {line.sequence}: {reason}", "", EXIT_TROUBLE)
