"""Which rule that judges updates goes with which protocol, settings, and number of malicious clients."""

import difflib
from collections.abc import Iterator

from shared.core.robust.judging import Choice, Kind, Mix, Needs, kind_of, largest_f, names
from shared.core.secagg.mpc3.terms import LARGEST_VALUE, SKETCH_SIZES
from shared.errors import Refused
from shared.job.plan import choice_of, fewest_in_a_sum, fewest_selected, judged_singly
from shared.job.specification import Aggregation, JobSpecification

# Of so many clients and more, cut into groups of that size at random: the part that may be malicious while
# most groups have none of them. From 4,000 random trials for 1,000 clients each, without a failure.
BY_COUNT = ("multi-krum", "trimmed-mean")  # leave out as many as may be malicious, and for 0 are the mean
ALTERNATIVE = "multi-krum"


def known_rule(job: JobSpecification) -> Iterator[Refused]:
    """The rule is installed here, and sees what it needs."""
    name = job.aggregation.robust
    if name not in names():
        [nearest] = difflib.get_close_matches(name, names(), n=1, cutoff=0) or ["mean"]
        yield Refused(
            "aggregation.robust",
            f"{name!r} is not one of {', '.join(names())}",
            f"set aggregation.robust: {nearest}; or install the package that brings the rule",
        )
        return
    try:
        kind = kind_of(name)
    except Refused as refused:
        yield refused
        return
    if judged_singly(job):
        yield from _seen(job, kind)
    yield from _settings(job.aggregation, kind)


def _seen(job: JobSpecification, kind: Kind) -> Iterator[Refused]:
    """What the protocol shows of single updates."""
    aggregation = job.aggregation
    name, secure, field = aggregation.robust, aggregation.secure, "aggregation.robust"
    groups = f"aggregation.group_size: {max(aggregation.smallest_group, 2)}"
    if secure in ("oneshot", "secagg"):
        reason = f"{name} compares updates, and {secure} opens only sums"
        if kind.needs is Needs.ROOT:
            yield Refused(field, reason, "set aggregation.secure: mpc3")
        else:
            also = ", or aggregation.secure: mpc3" if kind.needs is Needs.GRAM else ""
            yield Refused(field, reason, f"set {groups}{also}")
    elif secure == "mpc3" and kind.needs is Needs.COORDINATES:
        yield Refused(
            field,
            f"{name} compares single coordinates, and mpc3 opens inner products alone",
            f"set aggregation.robust: geometric-median, or {groups}",
        )
    elif secure == "mpc3" and kind.singles_out and aggregation.mixing != Mix.NEAREST_NEIGHBOUR:
        yield Refused(
            field,
            f"the result of {name} is one client's update as it is, or the mean of one bucket",
            f"set aggregation.robust: {ALTERNATIVE}, or aggregation.mixing: nearest-neighbour",
        )
    elif secure == "mpc3":
        yield from _floor(job, kind)


def _floor(job: JobSpecification, kind: Kind) -> Iterator[Refused]:
    """A rule may leave out all that are malicious, or more: what is left is opened."""
    aggregation = job.aggregation
    trusted = aggregation.root is not None  # whose own update does not count
    left = fewest_in_a_sum(job) - aggregation.malicious - trusted
    if left < aggregation.smallest_group:
        enough = aggregation.smallest_group + aggregation.malicious + trusted
        yield Refused(
            "rounds.min_clients",
            f"a sum without the malicious ones, over {left} updates, would be opened: the privacy floor is "
            f"{aggregation.smallest_group}",
            f"set rounds.min_clients: {enough}, or give privacy up: "
            f"aggregation.smallest_group: {max(left, 2)}",
        )
    elif kind.keeps_half and (kept := fewest_in_a_sum(job) // 2 + 1) < (floor := fewest_selected(job)):
        yield Refused(
            "rounds.min_clients",
            f"{aggregation.robust} may keep {kept} of them, and no sum over fewer than {floor} is opened",
            f"set rounds.min_clients: {2 * floor - 2}, or aggregation.robust: {ALTERNATIVE}",
        )


def _settings(aggregation: Aggregation, kind: Kind) -> Iterator[Refused]:
    """Settings that belong to other rules, or without which this one does nothing."""
    name, mixing = aggregation.robust, aggregation.mixing
    if kind.needs is Needs.ROOT:
        if aggregation.root is None:
            yield Refused(
                "aggregation.root",
                f"{name} measures updates by that of one client with public, clean data, and none is named",
                "set aggregation.root: the name of that client",
            )
        if aggregation.group_size is not None:
            yield Refused(
                "aggregation.group_size",
                f"{name} compares single updates, and groups hide them",
                "remove aggregation.group_size",
            )
    elif aggregation.root is not None:
        yield Refused("aggregation.root", f"{name} trusts nobody's update", "remove aggregation.root")
    if mixing != Mix.NONE and kind.needs is not Needs.GRAM:
        yield Refused(
            "aggregation.mixing",
            f"mixing comes before a rule that compares updates by inner products, and {name} does not",
            f"remove aggregation.mixing, or set aggregation.robust: {ALTERNATIVE}",
        )
    elif mixing != Mix.BUCKETS and aggregation.bucket != Aggregation.model_fields["bucket"].default:
        yield Refused("aggregation.bucket", "there are no buckets", "remove aggregation.bucket")
    if name in BY_COUNT and aggregation.malicious == 0:
        yield Refused(
            "aggregation.malicious",
            f"{name} leaves out as many as may be malicious, and with 0 it is the mean",
            "set aggregation.malicious: 1, or as many as there may be",
        )
    if kind.needs is not Needs.SUM and aggregation.weight_cap is not None and aggregation.group_size is None:
        yield Refused(
            "aggregation.weight_cap",
            f"{name} counts every client the same until it has judged it",
            "remove aggregation.weight_cap, or set aggregation.robust: mean",
        )
    if aggregation.suspend_at is not None and kind.needs is Needs.SUM:
        yield Refused(
            "aggregation.suspend_at",
            "the mean leaves nobody out, so that nobody has a score",
            f"remove aggregation.suspend_at, or set aggregation.robust: {ALTERNATIVE}",
        )
    elif aggregation.suspend_at is not None and aggregation.malicious == 0:
        yield Refused(
            "aggregation.suspend_at",
            "no more clients are suspended than may be malicious, and that is 0",
            "remove aggregation.suspend_at, or set aggregation.malicious: as many as there may be",
        )


def breakdown(job: JobSpecification, clients: int) -> Iterator[Refused]:
    """More malicious clients than the rule bears, where updates are judged one by one."""
    aggregation = job.aggregation
    if not judged_singly(job) or aggregation.robust not in names():
        return
    choice, malicious = choice_of(job), aggregation.malicious
    most = largest_f(choice, clients)
    if malicious <= most:
        return
    setting = "buckets of " + str(choice.bucket) + " before " if choice.mix is Mix.BUCKETS else ""
    enough = next((n for n in range(clients, 12 * clients + 50) if largest_f(choice, n) >= malicious), None)
    instead = f"rounds.min_clients: {enough}, or " if enough else f"aggregation.robust: {ALTERNATIVE}, or "
    yield Refused(
        "aggregation.malicious",
        f"{setting}{choice.name} bears {most} malicious of {clients}, not {malicious}",
        f"set {instead}aggregation.malicious: {most}",
    )


def too_long_for_a_sketch(job: JobSpecification, dimension: int) -> Iterator[Refused]:
    """Inner products of sketches may not wrap around 2^64, where mpc3 opens them."""
    if job.aggregation.secure != "mpc3" or not judged_singly(job):
        return
    size = SKETCH_SIZES[-1]
    longest = -(-dimension // size) * LARGEST_VALUE
    if size * longest * longest >= 2**63:
        most = int(2 ** (63 / 2) / size**0.5 / LARGEST_VALUE) * size
        yield Refused(
            "lora.rank",
            f"an adapter of {dimension} coordinates: mpc3 compares updates of at most {most}",
            "lower lora.rank, or adapt fewer lora.target_modules; or set aggregation.group_size: "
            f"{max(job.aggregation.smallest_group, 2)}",
        )


def most_malicious(clients: int, size: int, choice: Choice) -> int:
    """How many clients may be malicious while the rule bears every group that has one of them: as many as it
    bears groups, since each spoils one at most. Chance would put some of them together; what it gives beyond
    is next to nothing at odds that one may rely on."""
    return largest_f(choice, max(1, clients // size))


def hostile_groups(job: JobSpecification, clients: int) -> Iterator[Refused]:
    """More malicious clients than the rule bears once chance has put them into groups."""
    aggregation = job.aggregation
    malicious, size = aggregation.malicious, aggregation.group_size
    if size is None or aggregation.robust not in names() or (choice := choice_of(job)).plain:
        return
    most = most_malicious(clients, size, choice)
    if malicious <= most:
        return
    least = 2 if aggregation.secure == "none" else aggregation.smallest_group
    fitting = [less for less in range(least, size) if most_malicious(clients, less, choice) >= malicious]
    groups = clients // size
    yield Refused(
        "aggregation.group_size",
        f"{malicious} malicious of {clients} clients spoil more of {groups} groups than the "
        f"{largest_f(choice, groups)} that {choice.name} bears",
        f"set aggregation.group_size: {fitting[-1]}" if fitting else f"set aggregation.malicious: {most}",
    )
