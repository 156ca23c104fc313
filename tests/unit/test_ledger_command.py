"""`fedlora ledger verify` on a ledger that a real accountant wrote, whole and damaged."""

import asyncio
import json
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.core.chain import GENESIS_SHA256, Line, export
from shared.core.privacy import Mechanism, Skellam, accountants
from shared.core.privacy.accountants.reference import epsilon
from shared.events.values import PoissonSampled
from tests.accountant_at_work import ROUND, START, Accountant, report, request
from tests.command_line import fedlora

DELTA = 1e-5
LINES = 8
WITH_BITS = ROUND.model_copy(update={"bits_noise_multiplier": 10.0})


async def write_ledger(folder):
    """a commits 4 and 2 of 4 steps; b's first reservation expires, its second is released."""
    accountant = await Accountant.open(f"sqlite+aiosqlite:///{folder}/accountant.db")
    await accountant.handle(request(1))
    await accountant.handle(report(1, "a"))
    await accountant.handle(request(2, after_s=600))
    await accountant.handle(report(2, "a", steps=2))
    await accountant.handle(report(2, "b", steps=0))
    await accountant.pass_deadlines(START + timedelta(seconds=61))
    written = await accountant.export()
    await accountant.units.close()
    return written


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return asyncio.run(write_ledger(tmp_path_factory.mktemp("accountant")))


@pytest.fixture
def verified(tmp_path):
    """The command's answer to a file of these bytes."""

    def verify(content, *options):
        file = tmp_path / "ledger.jsonl"
        file.write_bytes(content)
        return fedlora("ledger", "verify", file, *options)

    return verify


def lines_of(exported):
    fields = ("sequence", "previous_sha256", "entry_sha256", "body")
    values = map(json.loads, exported.splitlines())
    return [Line(*(value[name] for name in fields)) for value in values]


def chained(bodies):
    """A chain that is whole, whatever the bodies say."""
    lines, previous = [], GENESIS_SHA256
    for sequence, body in enumerate(bodies, start=1):
        line = Line(sequence, previous, "", body)
        previous = line.digest()
        lines.append(replace(line, entry_sha256=previous))
    return export(lines)


def test_the_ledger_has_every_outcome(exported):
    outcomes = [line.body["outcome"] for line in lines_of(exported)]
    assert sorted(outcomes) == sorted(
        ["reserved"] * 4 + ["committed"] * 2 + ["released", "expired"],
    )
    assert len(outcomes) == LINES


def test_a_whole_ledger_is_confirmed_with_its_head_the_tolerance_and_each_clients_epsilon(exported, verified):
    code, out, err = verified(exported)
    assert (code, err) == (0, "")
    assert f"{LINES} entries, chain intact" in out
    assert lines_of(exported)[-1].entry_sha256 in out
    assert "within 1e-06" in out
    for client, steps in (("a", 6), ("b", 4)):
        spent = [Mechanism(0.1, 1.0, steps)]
        [row] = [line.split() for line in out.splitlines() if line.startswith(f"j    {client}")]
        assert row[2:] == [
            f"{epsilon(spent, DELTA):.3f}",
            f"{epsilon(spent, DELTA, 'rdp'):.3f}",
            "8",
            "1e-05",
        ]


def test_what_decides_about_budgets_does_not_verify_them(exported, verified, monkeypatch):
    for name in accountants.ACCOUNTANTS:
        monkeypatch.setitem(accountants.ACCOUNTANTS, name, lambda some, delta: [0.0] * len(some))
    accountants.forget()
    code, out, _ = verified(exported)
    accountants.forget()
    assert code == 0
    assert "recomputed with dp-accounting alone" in out


def test_the_verdict_as_json_has_unrounded_figures(exported, verified):
    code, out, _ = verified(exported, "--json")
    verdict = json.loads(out)
    assert code == 0
    assert (verdict["entries"], verdict["intact"], verdict["faults"]) == (LINES, True, [])
    assert (verdict["head"], verdict["tolerance"]) == (lines_of(exported)[-1].entry_sha256, 1e-6)
    spent = [Mechanism(0.1, 1.0, 6)]
    assert verdict["epsilon"][0] == {
        "job": "j", "client": "a", "epsilon": epsilon(spent, DELTA),
        "epsilon_rdp": epsilon(spent, DELTA, "rdp"), "epsilon_limit": 8.0, "delta": DELTA,
    }  # fmt: skip


def test_any_changed_byte_is_reported_with_the_number_of_its_line(exported, verified):
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for at in chance.sample(range(len(exported)), 60):
        damaged = bytearray(exported)
        damaged[at] ^= chance.randrange(1, 256)
        line = exported[:at].count(b"\n") + 1
        code, out, err = verified(bytes(damaged))
        assert (code, out) == (1, ""), at
        assert f"ledger.jsonl: line {line}: " in err, (at, err)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda rows: [rows[0], *rows[2:]], "line 2: entry 2 is missing or out of place, this is entry 3"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "line 1: entry 1 is missing or out of place"),
        (lambda rows: [*rows[:2], rows[1], *rows[2:]], "line 3: entry 3 is missing or out of place"),
        (lambda rows: [*rows, b"nonsense\n"], f"line {LINES + 1}: it is not an entry"),
        (lambda rows: [*rows, b'{"sequ'], f"line {LINES + 1}: the line does not end"),
        (lambda rows: [b"PK\x03\x04\xff\n"], "line 1: it is not an entry"),
    ],
)  # fmt: skip
def test_lines_that_are_removed_moved_or_added_are_named(exported, verified, damage, said):
    code, out, err = verified(b"".join(damage(exported.splitlines(keepends=True))))
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("outcome", "changes", "said"),
    [
        ("committed", {"epsilon": 0.5}, "it states epsilon 0.500000; its mechanisms give"),
        ("committed", {"epsilon_rdp": 0.5}, "it states epsilon_rdp 0.500000"),
        ("released", {"outcome": "committed"}, "committed with 0 of 4 steps cannot be"),
        ("expired", {"reservation": "unheard-of"}, "unheard-of was not reserved by b"),
        ("reserved", {"epsilon_limit": 0.1}, "a passes its limit"),
        ("committed", {"mechanism": WITH_BITS.model_dump(mode="json")}, "was reserved for another mechanism"),
        ("reserved", {"mechanism": {"kind": "unheard-of"}}, "no mechanism 'unheard-of'"),
    ],
)
def test_a_false_entry_under_a_chain_made_anew_is_named(exported, verified, outcome, changes, said):
    bodies = [dict(line.body) for line in lines_of(exported)]
    at = next(number for number, body in enumerate(bodies) if body["outcome"] == outcome)
    bodies[at].update(changes)
    code, out, err = verified(chained(bodies))
    assert (code, out) == (1, "")
    assert f"line {at + 1}: " in err
    assert said in err


def test_faults_as_json_are_all_there_and_the_code_is_still_1(exported, verified):
    rows = exported.splitlines(keepends=True)
    code, out, err = verified(b"".join([b"x\n", *rows[1:4], b"y\n", *rows[5:]]), "--json")
    verdict = json.loads(out)
    assert code == 1
    assert not verdict["intact"]
    assert [fault["line"] for fault in verdict["faults"]] == [1, 5]
    assert "line 1: it is not an entry as the log writes one (1 more at fault)" in err


def test_a_ledger_of_nothing_is_whole(verified):
    code, out, _ = verified(b"")
    assert code == 0
    assert "0 entries, chain intact" in out


INTEGERS = PoissonSampled(
    kind="poisson-skellam", sampling_rate=0.1, noise_multiplier=1.0, l2_sensitivity=2000.0, steps=1
)


async def write_integers(folder):
    """Three rounds of divided noise, of which one is not used."""
    accountant = await Accountant.open(f"sqlite+aiosqlite:///{folder}/accountant.db")
    for number, used in ((1, 1), (2, 0), (3, 1)):
        await accountant.handle(request(number, clients=("a",), mechanism=INTEGERS))
        await accountant.handle(report(number, "a", steps=used))
    written = await accountant.export()
    await accountant.units.close()
    return written


def test_noise_on_integers_is_recomputed_from_its_own_lines(tmp_path, verified):
    written = asyncio.run(write_integers(tmp_path))
    code, out, err = verified(written, "--json")
    assert (code, err) == (0, "")
    [row] = json.loads(out)["epsilon"]
    spent = [Skellam.of_any_dimension(0.1, 1.0, 2, 2000.0)]
    assert row["epsilon"] == pytest.approx(epsilon(spent, DELTA), abs=1e-9)
    assert epsilon(spent, DELTA) > epsilon([Mechanism(0.1, 1.0, 2)], DELTA)
    bodies = [dict(line.body) for line in lines_of(written)]
    bodies[0]["mechanism"] = {**bodies[0]["mechanism"], "kind": "poisson-gaussian"}
    code, _, err = verified(chained(bodies))
    assert code == 1
    assert "no mechanism 'poisson-gaussian'" in err
