"""`fedlora rules`: which rules may judge updates, what each sees, how many malicious clients it bears."""

from typing import Annotated, Any

import typer

from fedlora.console import emit_json, out, say, table
from fedlora.jobs import AsJson
from shared.core.robust.judging import Choice, Kind, Needs, kind_of, largest_f, names
from shared.core.robust.judging.table import BUILT_IN
from shared.errors import Refused

SEES = {
    Needs.SUM: "the sum alone",
    Needs.GRAM: "inner products",
    Needs.ROOT: "inner products, and one client that is trusted",
    Needs.COORDINATES: "each coordinate",
}


def rules(
    clients: Annotated[int, typer.Option(min=2, help="how many updates are judged in a round")] = 30,
    group_size: Annotated[
        int | None, typer.Option(min=2, help="judge the sums of groups of this size instead")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the rules that `aggregation.robust` may name, with how many malicious clients each bears."""
    rows = clients if group_size is None else max(1, clients // group_size)
    found = [_line(name, clients, rows, grouped=group_size is not None) for name in names()]
    if as_json:
        emit_json(found)
        return
    unit = f"of {clients}" if group_size is None else f"of {rows} groups"
    drawn = table("rule", "sees", f"bears {unit}", "under", "assumes")
    for line in found:
        drawn.add_row(
            line["rule"], line["sees"], str(line["bears"]), ", ".join(line["under"]), line["assumes"]
        )
    out.print(drawn)
    for line in found:
        if line["warning"]:
            say(f"{line['rule']}: {line['warning']}")


def _line(name: str, clients: int, rows: int, *, grouped: bool) -> dict[str, Any]:
    try:
        kind = kind_of(name)
    except Refused as refused:
        return {
            "rule": name, "sees": "", "bears": 0, "under": [], "assumes": "",
            "warning": refused.reason, "installed": True,
        }  # fmt: skip
    third = (clients - 1) // 3
    return {
        "rule": name,
        "sees": SEES[kind.needs],
        "bears": min(largest_f(Choice(name), rows), third),
        "under": _protocols(kind, grouped=grouped),
        "assumes": kind.assumes,
        "warning": kind.warning,
        "installed": name not in BUILT_IN,
    }


def _protocols(kind: Kind, *, grouped: bool) -> list[str]:
    if kind.needs is Needs.SUM or (grouped and kind.needs is not Needs.ROOT):
        return ["oneshot", "secagg", "mpc3", "none"]
    if grouped:
        return []
    if kind.needs is Needs.COORDINATES:
        return ["none"]
    return ["mpc3 after nearest-neighbour mixing" if kind.singles_out else "mpc3", "none"]
