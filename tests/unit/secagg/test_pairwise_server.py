"""The server refuses, by name, what would spoil the sum for others or was not asked for."""

from dataclasses import replace

import numpy as np
import pytest
from pairwise_round import Round, bytes_from, identity_of, names, terms_for

from shared.core.secagg.pairwise import client, keys, server
from shared.core.secagg.pairwise.client import Member
from shared.core.secagg.pairwise.graph import Plan
from shared.errors import Rejected

FOUR = Plan(4, 0, 1, 3, 3)
ME, PEER, OTHER, LAST = names(4)


def four(stage, silent=None, round_id="round"):
    return Round(terms_for(4, 3, FOUR, round_id), 11, silent).until(stage)


def without(run, name, kind):
    """The phase as if `name` had not spoken in it, and what it had said."""
    said = next(m for m in reversed(run.heard) if m.client_id == name)
    heard = {other: said_ for other, said_ in getattr(run.phase, kind).items() if other != name}
    return replace(run.phase, **{kind: heard}), said


def refused(phase, message, match):
    with pytest.raises(Rejected, match=match):
        server.receive(phase, message)


def test_keys_that_are_forged_replayed_or_a_strangers_are_refused():
    run = four("advertise")
    phase, said = without(run, PEER, "advertisements")
    replayed = next(m for m in four("advertise", round_id="before").heard if m.client_id == PEER)
    refused(phase, replace(said, mask_key=keys.public_of(bytes(range(32)))), f"keys of {PEER}")
    refused(phase, replayed, f"keys of {PEER}")
    refused(phase, replace(said, client_id="stranger"), "stranger does not speak")
    assert PEER in server.receive(phase, said).advertisements


def test_shares_that_leave_a_neighbour_out_or_reach_others_are_refused():
    run = four("share")
    phase, said = without(run, PEER, "shares")
    fewer = {receiver: sealed for receiver, sealed in said.sealed.items() if receiver != ME}
    refused(phase, replace(said, sealed=fewer), f"{PEER} did not share with all")
    refused(phase, replace(said, sealed={**said.sealed, "stranger": b""}), f"{PEER} did not share with all")


def test_a_vector_without_its_senders_consent_or_of_another_shape_is_refused_before_it_is_added():
    run = four("mask")
    phase, said = without(run, PEER, "consents")
    replayed = next(m for m in reversed(four("mask", round_id="before").heard) if m.client_id == PEER)
    before = phase.total.copy()
    refused(phase, replayed, "signature")
    refused(phase, replace(said, values=said.values[:2]), f"vector of {PEER}")
    refused(phase, replace(said, values=said.values.astype(np.float32)), f"vector of {PEER}")
    refused(phase, replace(said, client_id="stranger"), "does not speak")
    assert (phase.total == before).all()


def test_who_did_not_share_may_not_send_a_vector():
    run = four("mask", {"share": (LAST,)})
    said = run.heard[-1]
    refused(run.phase, replace(said, client_id=LAST), f"{LAST} does not speak")


def test_an_endorsement_of_another_set_is_refused():
    run = four("endorse")
    phase, _ = without(run, PEER, "signatures")
    other = four("endorse", {"mask": (LAST,)})
    elsewhere = next(m for m in reversed(other.heard) if m.client_id == PEER)
    refused(phase, elsewhere, "signature")


def test_shares_that_were_not_asked_for_are_refused():
    run = four("unmask", {"mask": (LAST,)})
    phase, said = without(run, PEER, "answers")
    refused(phase, replace(said, self_shares={**said.self_shares, LAST: bytes(33)}), f"{PEER} did not reveal")
    refused(phase, replace(said, key_shares={}), f"{PEER} did not reveal")
    for nothing in (b"", bytes(32), b"\xff" * 33):
        shares = said.self_shares | {ME: nothing}
        refused(phase, replace(said, self_shares=shares), f"{PEER} revealed what is no share")


def test_the_private_mask_key_of_a_lost_client_does_not_open_shares_sealed_to_it():
    """Its other key pair does; were there one alone, a revealed key would open its neighbours' shares."""
    terms = terms_for(4, 3, FOUR)
    advertised, sent = client.start(Member(terms, ME, identity_of(ME)), bytes_from("me"))
    peer, theirs = client.start(Member(terms, PEER, identity_of(PEER)), bytes_from("peer"))
    label = terms.label(b"share", PEER, ME)
    key = keys.agree(keys.private_from(peer.secrets.share_key), sent.share_key, label)
    sealed = keys.seal(key, label, keys.HeldShares(bytes(33), bytes(33)))
    mine, revealed = map(keys.private_from, (advertised.secrets.share_key, advertised.secrets.mask_key))
    assert keys.open_(keys.agree(mine, theirs.share_key, label), label, sealed)
    with pytest.raises(Rejected):
        keys.open_(keys.agree(revealed, theirs.share_key, label), label, sealed)


def test_a_key_is_for_one_role_round_sender_and_receiver():
    terms, private, public = (
        terms_for(4, 3, FOUR),
        keys.private_from(bytes(range(32))),
        keys.public_of(bytes(range(1, 33))),
    )
    labels = [
        terms.label(b"share", ME, PEER),
        terms.label(b"share", PEER, ME),
        terms.label(b"pair", ME, PEER),
        terms_for(4, 3, FOUR, "next").label(b"share", ME, PEER),
        terms_for(4, 4, FOUR).label(b"share", ME, PEER),
    ]
    assert len({keys.agree(private, public, label) for label in labels}) == len(labels)


def test_both_ends_of_a_pair_derive_one_seed():
    terms, one, two = terms_for(4, 3, FOUR), bytes(range(32)), bytes(range(1, 33))
    ours = keys.pair_seeds(terms, one, ME, {PEER: keys.public_of(two), OTHER: keys.public_of(two)})
    theirs = keys.pair_seeds(terms, two, PEER, {ME: keys.public_of(one)})
    assert ours[PEER] == theirs[ME] != ours[OTHER]
