"""Three parties that judge: what passes between them, what they say again, and what ends a session."""

import asyncio
import threading
from contextlib import suppress

import numpy as np
import pytest

from services.secure_aggregation.protocols.mpc3 import Shared
from services.secure_aggregation.state import Session
from shared.adapters.no_telemetry import NoTelemetry
from shared.core.secagg.mpc3 import opening
from shared.errors import Refused, Rejected, Unavailable
from shared.events.values import BlobRef
from shared.sessions.terms import mpc3_terms
from tests.mpc3_party_at_work import (
    JUDGED,
    KEY,
    NAMES,
    STEP,
    TERMS,
    UPDATES,
    keys_of,
    terms_of,
    three_parties,
)
from tests.sessions_at_work import DEADLINE


@pytest.fixture
async def three(tmp_path):
    async with three_parties(tmp_path) as made:
        yield made


def secrets_of(three):
    return [side._party.secrets for side in (three.side, three.of(1), three.of(2))]


async def test_three_parties_find_the_gram_matrix_and_one_sum(three):
    signatures = await three.checked()
    assert three.side.flagged == three.of(1).flagged == three.of(2).flagged == frozenset()
    gram = await three.asking.gram(three.wires[0])
    rows = np.array([UPDATES[name] for name in NAMES], np.float64)
    assert np.abs(gram * STEP**2 - rows @ rows.T).max() < 1e-2
    aggregate = await three.asking.sum(three.wires[0], signatures, three.side.everyone())
    assert np.abs(aggregate.values * STEP - rows.sum(axis=0)).max() < 3 * STEP


async def test_party_0_is_told_neither_party_2s_key_nor_its_messages_to_party_1(three):
    await three.checked()
    heard = b"".join(three.wires[0].told)
    key = three.of(2).setup.key
    assert key in b"".join(three.wires[1].told)
    assert key not in heard
    assert three.of(1).setup.key in heard  # the one that is for party 0
    layers = [three.of(2).layers.say(step) for step in range(three.of(2).layers.heard)]
    assert len(layers) == 20
    assert not any(message in heard for message in layers)
    assert all(message in b"".join(three.wires[1].told) for message in layers)


async def test_what_the_other_two_tell_each_other_party_0_cannot_ask_for(three):
    await three.checked()
    for party in (1, 2):
        for kind, body in (
            ("coin", {"commitments": {}}),
            ("said", {"step": 0}),
            ("bits", {}),
            ("holdings", {}),
        ):
            with pytest.raises(Rejected, match="no request"):
                await three.ask(party, kind, **body)
    for kind in ("secrets", "check", "layer", "verdict", "gram", "choose", "release"):
        with pytest.raises(Rejected, match="no request"):
            await three.ask(1, kind, sender=2)
    with pytest.raises(Rejected, match="is not for party 2"):
        await three.ask(1, "said", sender=2, step=0)


async def test_secrets_are_the_same_after_every_restart_and_lie_in_no_row(three, tmp_path):
    await three.opened()
    before = secrets_of(three)
    assert len({(one.sketch_seed, one.check_key) for one in before}) == 1
    assert before[0].keys[1] == before[1].keys[0]
    for party in (1, 2):
        three.restart(party)
    three.restart_0()
    await three.opened()
    assert secrets_of(three) == before
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    drawn = {three.of(party).setup.coin for party in (1, 2)} | {key for one in before for key in one.keys}
    assert three.side.setup.commitment in stored  # what lies there is seen
    assert not any(secret in stored for secret in drawn)


async def test_no_coin_is_shown_for_other_commitments_than_the_first(three):
    """After a restart, too: a party that has seen all coins cannot choose another one of its own."""
    await three.opened()
    commitments = {
        party: side.setup.commitment for party, side in enumerate((three.side, three.of(1), three.of(2)))
    }
    for changed, reason in ((0, "other coins before"), (1, "not what this party committed to")):
        three.restart(1)
        with pytest.raises(Rejected, match=reason):
            await three.ask(1, "secrets", commitments={**commitments, changed: bytes(32)}, opening=b"")
        with pytest.raises(Rejected, match=reason):
            await three.ask(1, "coin", sender=2, commitments={**commitments, changed: bytes(32)})


async def test_an_upload_that_comes_before_the_secrets_waits_and_a_wrong_one_is_named(three):
    await three.ask(1, "open", terms=JUDGED.to_bytes(), deadline=DEADLINE)
    side, wrong = three.of(1), three.payload("bob", 1)
    side.take("alice", three.payload("alice", 1))
    side.take("bob", wrong[:-1] + bytes([wrong[-1] ^ 1]))
    assert side.clients == frozenset()
    with pytest.raises(Unavailable, match="secrets"):
        side.close()
    await three.asking.open(three.wires[0], DEADLINE)
    assert side.clients == {"alice"}
    assert "not the one that it signed" in three.custody[1].places[KEY].refused["bob"]


async def test_a_step_of_the_norm_check_says_the_same_again_and_takes_no_other_message(three):
    signatures = await three.agreed()
    three.side.freeze(signatures)
    layers = three.side.begin_check()
    for party in (1, 2):
        await three.ask(party, "check", signatures=signatures)
    with pytest.raises(Rejected, match="is not the next"):
        await three.ask(2, "layer", step=1, message=layers.say(0))
    with pytest.raises(Unavailable, match="no message of step 2"):
        await three.ask(1, "layer", step=2)
    await three.ask(2, "layer", step=0, message=layers.say(0))
    first = await three.ask(1, "layer", step=0)
    assert await three.ask(2, "layer", step=0, message=layers.say(0)) == b""
    assert await three.ask(1, "layer", step=0) == first
    with pytest.raises(Rejected, match="another message of step 0"):
        await three.ask(2, "layer", step=0, message=first)
    layers.hear(0, first)
    with pytest.raises(Rejected, match="another message of step 0"):
        layers.hear(0, layers.say(0))
    await three.asking.check(three.wires[0], signatures, begun=False)
    assert three.side.flagged == frozenset()
    await three.asking.check(three.wires[0], signatures, begun=False)


async def test_a_norm_check_that_was_broken_off_is_not_gone_on_with(three):
    signatures = await three.agreed()
    three.side.freeze(signatures)
    layers = three.side.begin_check()
    with pytest.raises(Rejected):
        layers.hear(0, b"nonsense")
    with pytest.raises(Rejected, match="is not the next"):
        layers.hear(0, layers.say(0))


@pytest.mark.parametrize("party", [0, 1, 2])
async def test_who_lost_its_memory_in_the_norm_check_gives_the_session_up(three, party):
    signatures = await three.agreed()
    for each in (1, 2):
        await three.ask(each, "check", signatures=signatures)
    if party:
        three.restart(party)
    else:
        three.restart_0()
    with pytest.raises(Rejected, match=f"(this party|party {party}) lost its memory during the norm check"):
        await three.checked(begun=party == 0)
    assert three.side.layers is None or not three.side.layers.done


@pytest.mark.parametrize("party", [0, 1, 2])
async def test_who_loses_its_memory_after_the_norm_check_knows_its_result(three, party):
    signatures = await three.checked()
    before = await three.asking.gram(three.wires[0])
    if party:
        three.restart(party)
    else:
        three.restart_0()
    assert await three.checked(begun=True) == signatures
    assert (await three.asking.gram(three.wires[0]) == before).all()


async def test_after_a_restart_a_party_signs_no_other_selection(three):
    signatures = await three.checked()
    chosen = opening.Selection(three.side.survivors_digest, 1, (1, 1, 0))
    other = opening.Selection(three.side.survivors_digest, 1, (0, 1, 1))
    body = {"signatures": signatures, "selection": chosen.to_bytes()}
    signed = await three.ask(1, "choose", **body)
    assert await three.ask(1, "choose", **body) == signed
    three.restart(1)
    await three.checked()
    with pytest.raises(Rejected, match="another selection"):
        await three.ask(1, "choose", **body | {"selection": other.to_bytes()})
    assert await three.ask(1, "choose", **body) == signed


async def test_a_party_signs_no_selection_that_shows_one_update(three):
    signatures = await three.checked()
    lone = opening.Selection(three.side.survivors_digest, 1, (1, 0, 0))
    for party in (1, 2):
        with pytest.raises(Rejected, match="a sum of 1 is not opened"):
            await three.ask(party, "choose", signatures=signatures, selection=lone.to_bytes())


async def test_a_request_that_comes_again_while_it_is_worked_on_adds_no_update_twice(three, monkeypatch):
    signatures = await three.checked()
    both, correct = threading.Barrier(2), opening.correct

    def met(*args):
        with suppress(threading.BrokenBarrierError):  # one alone waits in vain, as it should
            both.wait(0.2)
        return correct(*args)

    monkeypatch.setattr(opening, "correct", met)
    selection = opening.Selection(three.side.survivors_digest, 2, (2, 2, 1))
    body = {"signatures": signatures, "selection": selection.to_bytes()}
    await asyncio.gather(*(three.ask(party, "choose", **body) for party in (1, 1, 2, 2)))
    aggregate = await three.asking.sum(three.wires[0], signatures, selection)
    expected = np.array([2, 2, 1]) @ np.array([UPDATES[name] for name in NAMES], np.float64)
    assert np.abs(aggregate.values * STEP - expected).max() < 5 * STEP


def test_terms_that_judge_have_a_norm_bound_that_every_honest_update_is_within():
    plan = JUDGED.plan.model_copy(update={"fewest": 3, "selected": 2, "bits": 12})
    for length in (1, 2, 39, 40, 41, 10_000):
        agreed = mpc3_terms(terms_of(plan=plan, dimension=length))
        assert length * 2**22 <= agreed.norm_bound**2 < (length**0.5 + 1) ** 2 * 2**22
        assert (agreed.sketch_size, agreed.gram_opener, agreed.fewest_selected) == (1024, 0, 2)
    assert mpc3_terms(TERMS).norm_bound is None
    with pytest.raises(Refused, match="3000000 values in a sketch of 1024"):
        mpc3_terms(terms_of(plan=plan, dimension=3_000_000))


class Spans(NoTelemetry):
    def __init__(self):
        self.names = []

    def span(self, name, **attributes):
        assert set(attributes) == {"group_id"}
        self.names.append(name)
        return super().span(name)


async def test_the_trace_shows_each_step_and_the_result_says_what_each_update_counts(three):
    running, spans = Shared(JUDGED, keys_of(0)), Spans()
    session = Session(
        job_id=KEY[0], round_id=KEY[1], group_id=KEY[2], protocol="mpc3", deadline=DEADLINE,
        terms=BlobRef(sha256="0" * 64, size_bytes=1), stage="upload",
    )  # fmt: skip
    for name in NAMES:
        running.take_upload(session, name, three.payload(name, 0))
    await running.talk(session)(three.wires[0], spans)
    await three.opened()
    step = None
    while session.open:
        step = running.step(session, (), waited=False)
        session = session.replace(stage=step.stage, decided={**session.decided, session.stage: step.decided})
        if session.open:
            await running.talk(session)(three.wires[0], spans)
    assert spans.names == ["norm check", "gram matrix", "weigh", "open sum"]
    judgement = step.outcome.judgement
    assert judgement.weights == pytest.approx(dict.fromkeys(NAMES, 1 / 3))
    expected = sum(UPDATES[name].astype(np.float64) for name in NAMES) / 3
    assert np.abs(step.outcome.total - expected).max() < STEP
