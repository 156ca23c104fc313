"""Every message and phase has one string of bytes; every other is refused, and it is said what is wrong."""

import hashlib
from dataclasses import fields, is_dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairwise_round import STAGES, Round, identity_of, names, terms_for

from shared.core.secagg.pairwise import client, codec, messages, server
from shared.core.secagg.pairwise.client import Member
from shared.core.secagg.pairwise.graph import Plan
from shared.core.secagg.pairwise.terms import Terms
from shared.errors import Rejected

FOUR = Plan(4, 0, 1, 3, 3)
ME, PEER, OTHER, LAST = names(4)


def restarted(phase):
    content = codec.phase_to_bytes(phase)
    member = Member(terms_of(phase), phase.member.client_id, identity_of(phase.member.client_id))
    again = codec.phase_from_bytes(member, content)
    assert type(again) is type(phase)
    assert codec.phase_to_bytes(again) == content
    return again


def terms_of(phase):
    """The same terms, as another process would have them."""
    terms = phase.member.terms
    return Terms(**{field.name: getattr(terms, field.name) for field in fields(terms)})


def sent(message, terms):
    return codec.from_bytes(type(message), codec.to_bytes(message, terms), terms)


class Restarting(Round):
    """A round in which every client restarts between all steps, and what it says travels as bytes."""

    def speak(self, stage, answers):
        def travelled(answer):
            phase, message = answer()
            return phase, sent(message, self.terms)

        wired = {name: lambda answer=answer: travelled(answer) for name, answer in answers.items()}
        said = super().speak(stage, wired)
        self.clients = {name: restarted(phase) for name, phase in self.clients.items()}
        return said


def same(one, two):
    if is_dataclass(one):
        return type(one) is type(two) and all(
            same(getattr(one, field.name), getattr(two, field.name)) for field in fields(one)
        )
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two


@cache
def everything():
    """One of each message and phase, of a round in which one client was lost."""
    run = Round(terms_for(4, 3, FOUR), 11, {"mask": (LAST,)})
    phases = []
    for stage in STAGES:
        getattr(run, stage)()
        phases.append(run.clients[PEER])
    advertising = server.start(run.terms)
    for message in run.heard[:4]:
        advertising = server.receive(advertising, message)
    _, lists = advertising.close()
    down = [lists[ME], run.deliveries[ME], run.sets[ME], run.endorsements]
    return run.terms, {type(m): m for m in (*run.heard, *down)}, {type(p): p for p in phases}


MESSAGES = (
    messages.Advertisement,
    messages.KeyList,
    messages.SealedShares,
    messages.Delivery,
    messages.MaskedInput,
    messages.SurvivorSet,
    messages.Endorsement,
    messages.Endorsements,
    messages.Unmasking,
)
PHASES = (client.Advertised, client.Shared, client.Masked, client.Endorsed, client.Finished)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_is_the_same_after_the_wire(kind):
    terms, said, _ = everything()
    assert same(sent(said[kind], terms), said[kind])


@pytest.mark.parametrize("kind", PHASES)
def test_a_phase_is_the_same_after_a_restart(kind):
    _, _, phases = everything()
    phase = phases[kind]
    again = restarted(phase)
    for field in fields(phase):
        assert field.name == "member" or same(getattr(again, field.name), getattr(phase, field.name))


@pytest.mark.parametrize("silent", [{}, {"share": names(10)[:1], "mask": names(10)[4:6]}])
def test_a_round_in_which_every_client_restarts_between_all_steps_gives_the_same_sum(silent):
    planned = Plan(10, 0, 3, 8, 6)
    runs = [kind(terms_for(10, 50, planned), 7, silent) for kind in (Round, Restarting)]
    results = [run.result() for run in runs]
    assert (results[0].total == results[1].total).all()
    assert (results[1].total == runs[1].plain_sum(results[1].survivors)).all()
    assert all(same(*pair) for pair in zip(runs[0].heard, runs[1].heard, strict=True))


def test_the_order_in_which_a_mapping_was_filled_does_not_show():
    terms, said, _ = everything()
    message = said[messages.Endorsements]
    turned = replace(message, signatures=dict(reversed(message.signatures.items())))
    assert list(turned.signatures) != list(message.signatures)
    assert codec.to_bytes(turned, terms) == codec.to_bytes(message, terms)


def changed(content, random):
    """Bytes near `content`: some overwritten, cut off, repeated or put in between."""
    at = random.integers(0, len(content) + 1)
    way = random.integers(0, 4)
    if way == 0:
        return content[:at]
    if way == 1:
        return content[:at] + random.bytes(random.integers(1, 9)) + content[at:]
    if way == 2:
        return content[:at] + content[at + random.integers(1, 9) :]
    size = int(random.integers(1, 5))
    return content[:at] + random.bytes(size) + content[at + size :]


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(MESSAGES), seed=st.integers(0, 2**32 - 1))
def test_bytes_near_a_message_are_refused_or_those_of_one_message(kind, seed):
    terms, said, _ = everything()
    content = changed(codec.to_bytes(said[kind], terms), np.random.default_rng(seed))
    try:
        message = codec.from_bytes(kind, content, terms)
    except Rejected as error:
        assert str(error)
    else:
        assert codec.to_bytes(message, terms) == content


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(PHASES), seed=st.integers(0, 2**32 - 1))
def test_bytes_near_a_phase_are_refused_or_those_of_one_phase(kind, seed):
    _, _, phases = everything()
    content = changed(codec.phase_to_bytes(phases[kind]), np.random.default_rng(seed))
    try:
        phase = codec.phase_from_bytes(phases[kind].member, content)
    except Rejected as error:
        assert str(error)
    else:
        assert codec.phase_to_bytes(phase) == content


@given(content=st.binary(max_size=200), kind=st.sampled_from(MESSAGES))
def test_any_bytes_are_refused(content, kind):
    terms, _, phases = everything()
    with pytest.raises(Rejected):
        codec.from_bytes(kind, content, terms)
    with pytest.raises(Rejected):
        codec.phase_from_bytes(phases[client.Masked].member, content)


def refused(message, match, terms):
    with pytest.raises(Rejected, match=match):
        codec.to_bytes(message, terms)


def test_it_is_said_what_is_wrong_with_bytes():
    terms, said, phases = everything()
    content = codec.to_bytes(said[messages.Unmasking], terms)
    kind = messages.Unmasking
    for bad, match in [
        (b"", "1 bytes expected, 0 left"),
        (b"\x00" + content[1:], "kind 0 is not known"),
        (b"A" + content[1:], "kind 65 is not known"),
        (content[:1] + bytes(32) + content[33:], "Unmasking: the digest of other terms"),
        (
            content[:33] + b"\xff" * 4 + content[37:],
            "Unmasking: client_id: client 4294967295 of a cohort of 4",
        ),
        (content[:37] + b"\x10" + content[38:], "Unmasking: self_shares: a client beyond a cohort of 4"),
        (content[:-1], f"Unmasking: key_shares: of {LAST}: 33 bytes expected, 32 left"),
        (content + b"\x00", "Unmasking: 1 bytes too many"),
    ]:
        with pytest.raises(Rejected, match=match):
            codec.from_bytes(kind, bad, terms)
    with pytest.raises(Rejected, match="a Unmasking, where a KeyList is expected"):
        codec.from_bytes(messages.KeyList, content, terms)


def test_it_is_said_what_is_wrong_with_a_message():
    terms, said, _ = everything()
    mask, found = said[messages.MaskedInput], said[messages.SurvivorSet]
    refused(
        replace(mask, client_id="stranger"), "MaskedInput: client_id: stranger is not in the cohort", terms
    )
    refused(replace(mask, values=mask.values[:2]), "MaskedInput: values: ", terms)
    refused(replace(mask, consent=b"short"), "MaskedInput: consent: 5 bytes, 64 expected", terms)
    refused(replace(found, survivors=found.survivors[::-1]), "survivors: a list of clients is not", terms)
    refused(replace(found, consents={PEER: b""}), f"consents: of {PEER}: 0 bytes, 64", terms)
    refused("text", "a str has no bytes here", terms)


def test_a_phase_is_one_clients_under_one_set_of_terms():
    _, _, phases = everything()
    phase = phases[client.Masked]
    content = codec.phase_to_bytes(phase)
    other = Member(phase.member.terms, ME, identity_of(ME))
    with pytest.raises(Rejected, match="Masked: another client"):
        codec.phase_from_bytes(other, content)
    elsewhere = Member(terms_for(4, 3, FOUR, "next"), PEER, identity_of(PEER))
    with pytest.raises(Rejected, match="Masked: the digest of other terms"):
        codec.phase_from_bytes(elsewhere, content)


def test_a_message_is_no_phase_and_a_phase_no_message():
    terms, said, phases = everything()
    with pytest.raises(Rejected, match="has no bytes here"):
        codec.to_bytes(phases[client.Masked], terms)
    with pytest.raises(Rejected, match="is not known"):
        codec.from_bytes(messages.Delivery, codec.phase_to_bytes(phases[client.Masked]), terms)


def test_what_a_thousand_clients_are_sent_is_small():
    """Bytes over 1000 names in a set: a bit each."""
    terms = terms_for(1000, 1, Plan(1000, 50, 50, 86, 64))
    delivery = messages.Delivery(names(1000), {name: bytes(82) for name in names(86)})
    assert len(codec.to_bytes(delivery, terms)) == 1 + 32 + 125 + 125 + 86 * 82


def test_the_bytes_of_every_message_are_known():
    """A change here is a change of protocol: give the layout another number."""
    terms, said, _ = everything()
    digest = hashlib.sha256(b"".join(codec.to_bytes(said[kind], terms) for kind in MESSAGES))
    assert digest.hexdigest() == "336a7514b5d6c7af5f805105358d5d622164d4e1755733f1d8eb23065002427a"
