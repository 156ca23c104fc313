"""A client refuses what a lying server sends: forged keys, another round's, a second survivor set, an empty quorum."""

from dataclasses import replace

import numpy as np
import pytest
from pairwise_round import Round, bytes_from, identity_of, names, terms_for

from shared.core.secagg.pairwise import client, keys
from shared.core.secagg.pairwise.client import Endorsed, Finished, Member
from shared.core.secagg.pairwise.graph import Plan
from shared.core.secagg.pairwise.messages import Delivery, Endorsements, KeyList, SurvivorSet
from shared.core.secagg.pairwise.terms import Terms, TooFew
from shared.errors import Refused, Rejected, Stale

FOUR = Plan(4, 0, 1, 3, 3)
ME, PEER, OTHER, LAST = names(4)


def four(stage, silent=None, terms=None):
    return Round(terms or terms_for(4, 3, FOUR), 11, silent).until(stage)


def key_list(run, name=ME):
    _, lists = run.phase.close()
    return lists[name].advertisements


def share_with(run, advertisements):
    return run.clients[ME].share_keys(KeyList(advertisements), bytes_from("shares"))


def test_a_forged_key_is_refused():
    run = four("advertise")
    theirs = key_list(run)
    forged = replace(theirs[PEER], share_key=keys.public_of(bytes(range(32))))
    with pytest.raises(Rejected, match=f"{PEER} are not signed by its identity for this round"):
        share_with(run, {**theirs, PEER: forged})


def test_a_key_signed_by_another_member_is_refused():
    run = four("advertise")
    theirs = key_list(run)
    with pytest.raises(Rejected, match=f"a key of {PEER}"):
        share_with(run, {**theirs, PEER: theirs[OTHER]})
    with pytest.raises(Rejected, match="not signed by its identity"):
        share_with(run, {**theirs, PEER: replace(theirs[OTHER], client_id=PEER)})


@pytest.mark.parametrize("changed", ["round_id", "job_id", "group_id", "public_seed", "dimension", "plan"])
def test_keys_of_another_round_or_other_terms_are_refused(changed):
    here = terms_for(4, 3, FOUR)
    value = {"public_seed": bytes(32), "dimension": 4, "plan": Plan(4, 1, 0, 3, 3)}.get(changed, "another")
    old = Round(replace(here, **{changed: value}), 11).until("advertise")
    run = four("advertise", terms=here)
    with pytest.raises(Rejected, match="for this round"):
        share_with(run, {**key_list(run), PEER: key_list(old)[PEER]})


def test_one_key_under_two_names_is_refused():
    run = four("advertise")
    theirs = key_list(run)
    copied = replace(theirs[PEER], mask_key=theirs[OTHER].mask_key)
    signed = replace(copied, signature=identity_of(PEER).sign(copied.message(run.terms)))
    with pytest.raises(Rejected, match="the same"):
        share_with(run, {**theirs, PEER: signed})


def test_a_key_of_low_order_is_refused():
    run = four("advertise")
    theirs = key_list(run)
    weak = replace(theirs[PEER], share_key=bytes(32))
    signed = replace(weak, signature=identity_of(PEER).sign(weak.message(run.terms)))
    with pytest.raises(Rejected, match="no usable X25519 key"):
        share_with(run, {**theirs, PEER: signed})


def test_too_few_neighbours_are_refused():
    run = four("advertise")
    with pytest.raises(TooFew, match="keys of neighbours: 2 of the 3 .* 1 missing"):
        share_with(run, {PEER: key_list(run)[PEER]})


def delivered(run):
    _, deliveries = run.phase.close()
    return deliveries[ME]


def mask_with(run, delivery, values=None):
    return run.clients[ME].mask(delivery, np.zeros(3, np.uint32) if values is None else values)


def test_shares_that_were_altered_or_meant_for_another_are_refused():
    run = four("share")
    honest = delivered(run)
    _, all_ = run.phase.close()
    for bad in (b"", honest.sealed[PEER][:-1] + bytes(1), honest.sealed[OTHER], all_[OTHER].sealed[PEER]):
        with pytest.raises(Rejected, match=f"from {PEER}: sealed shares do not open"):
            mask_with(run, replace(honest, sealed={**honest.sealed, PEER: bad}))


def test_shares_that_the_server_withholds_are_missed():
    run = four("share")
    honest = delivered(run)
    withheld = {sender: sealed for sender, sealed in honest.sealed.items() if sender != PEER}
    with pytest.raises(Rejected, match=f"{PEER} is on the roster"):
        mask_with(run, replace(honest, sealed=withheld))


@pytest.mark.parametrize(
    "roster",
    [
        (PEER, ME, OTHER),
        (ME, ME, PEER, OTHER),
        (PEER, OTHER, LAST),
        (ME, PEER, OTHER, "stranger"),
        (ME, PEER),
    ],
)
def test_a_roster_that_cannot_be_is_refused(roster):
    run = four("share")
    with pytest.raises(Rejected):
        mask_with(run, Delivery(roster, delivered(run).sealed))


@pytest.mark.parametrize(
    "values", [np.zeros(4, np.uint32), np.zeros(3, np.int64), np.zeros((3, 1), np.uint32)]
)
def test_a_vector_of_another_shape_or_type_is_refused(values):
    run = four("share")
    with pytest.raises(Rejected, match="an update is"):
        mask_with(run, delivered(run), values)


def test_a_second_survivor_set_is_refused():
    run = four("mask")
    _, sets = run.phase.close()
    first = sets[ME]
    endorsed, _ = run.clients[ME].endorse(first)
    assert isinstance(endorsed, Endorsed)
    second = SurvivorSet((ME, PEER, OTHER), {peer: first.consents[peer] for peer in (PEER, OTHER)})
    run.clients[ME].endorse(second)  # it would have been good as the first one
    with pytest.raises(Rejected, match="no second one"):
        endorsed.endorse(second)
    with pytest.raises(Stale):
        endorsed.endorse(first)


@pytest.mark.parametrize(
    "survivors", [(ME, PEER), (PEER, OTHER, LAST), (PEER, ME, OTHER), (ME, PEER, OTHER, "stranger")]
)
def test_a_survivor_set_that_cannot_be_is_refused(survivors):
    run = four("mask")
    _, sets = run.phase.close()
    with pytest.raises(Rejected):
        run.clients[ME].endorse(replace(sets[ME], survivors=survivors))


def test_a_set_that_leaves_any_client_without_neighbours_is_refused():
    """So that a server that knows the graph cannot cut one client out by calling its neighbours lost."""
    terms = terms_for(20, 3, Plan(20, 0, 4, 4, 4))
    run = Round(terms, 11).until("mask")
    _, sets = run.phase.close()
    ring = terms.graph.ring
    witness, victim = ring[10], ring[0]
    survivors = tuple(sorted(set(terms.cohort) - {ring[1], ring[2], ring[18], ring[19]}))
    with pytest.raises(Rejected, match="too few neighbours"):
        run.clients[witness].endorse(replace(sets[witness], survivors=survivors))
    assert victim in terms.graph.unsupported(survivors, 4)


def test_a_set_that_those_who_may_collude_could_fill_but_for_one_is_refused():
    terms = terms_for(20, 3, Plan(20, 6, 6, 4, 3))
    run = Round(terms, 11).until("mask")
    _, sets = run.phase.close()
    ring = terms.graph.ring
    seven = tuple(sorted(ring[:7]))
    assert not terms.graph.unsupported(seven, 3)
    with pytest.raises(TooFew, match="survivors: 7 of the 8 that are needed came, 1 missing"):
        run.clients[ring[3]].endorse(replace(sets[ring[3]], survivors=seven))


def test_a_neighbour_that_masked_by_another_roster_is_not_endorsed():
    """A server that told PEER another roster would otherwise leave out the mask that hides this client."""
    run = four("mask")
    _, sets = run.phase.close()
    elsewhere = four("mask", {"share": (LAST,)})
    _, other_sets = elsewhere.phase.close()
    consents = {**sets[ME].consents, PEER: other_sets[ME].consents[PEER]}
    with pytest.raises(Rejected, match="signature"):
        run.clients[ME].endorse(replace(sets[ME], consents=consents))
    with pytest.raises(Rejected, match="signature"):
        run.clients[ME].endorse(replace(sets[ME], consents={}))


def test_endorsements_of_another_set_reveal_nothing():
    run = four("endorse")
    _, good = run.phase.close()
    other = Round(run.terms, 11, {"mask": (LAST,)}).until("endorse")
    _, elsewhere = other.phase.close()
    with pytest.raises(Rejected, match="signature"):
        run.clients[ME].unmask(Endorsements({**good.signatures, PEER: elsewhere.signatures[PEER]}))
    with pytest.raises(Rejected, match="no survivor"):
        run.clients[ME].unmask(Endorsements({**good.signatures, "stranger": bytes(64)}))


def test_less_than_a_quorum_reveals_nothing():
    run = four("endorse")
    _, good = run.phase.close()
    few = dict(sorted(good.signatures.items())[:2])
    with pytest.raises(TooFew, match="endorsements: 2 of the 3 that are needed came, 1 missing"):
        run.clients[ME].unmask(Endorsements(few))


def test_two_sets_never_both_reach_a_quorum():
    for clients in range(3, 40):
        for colluding in range((clients - 1) // 3 + 1):
            planned = Plan(clients, colluding, 0, clients - 1, clients)
            assert 2 * planned.quorum > clients + colluding


def test_a_finished_client_holds_and_answers_nothing():
    run = four("unmask")
    finished = run.clients[ME]
    assert finished == Finished(finished.member)
    with pytest.raises(Rejected):
        finished.unmask(run.endorsements)
    with pytest.raises(Rejected):
        finished.endorse(run.sets[ME])
    with pytest.raises(Rejected):
        finished.mask(run.deliveries[ME], np.zeros(3, np.uint32))
    with pytest.raises(Rejected):
        finished.share_keys(KeyList({}), bytes_from())


def test_secrets_are_not_printed():
    run = four("share")
    shared = run.clients[ME]
    secrets = (
        shared.secrets.mask_key,
        shared.secrets.share_key,
        shared.secrets.self_seed,
        shared.kept.of_self,
    )
    assert not any(repr(secret) in repr(shared) for secret in secrets)


def test_an_identity_that_is_not_the_cohorts_is_refused():
    with pytest.raises(Rejected, match=f"does not hold the key of {ME}"):
        client.start(Member(terms_for(4, 3, FOUR), ME, identity_of(PEER)), bytes_from())


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"dimension": 0}, "dimension"),
        ({"public_seed": b""}, "aggregation.protocol"),
        ({"cohort": {}}, "aggregation.protocol"),
    ],
)
def test_terms_that_cannot_hold_are_refused(changed, field):
    with pytest.raises(Refused) as refused:
        replace(terms_for(4, 3, FOUR), **changed)
    assert refused.value.field == field
    assert isinstance(terms_for(4, 3, FOUR), Terms)
