"""Until the survivor set stands: who cheats is named or refused, client or party."""

from dataclasses import replace

import numpy as np
import pytest
from mpc3_round import THREE, Round, secrets_for, shared, sign, signed_payloads, terms_for
from oneshot_round import SeededBytes, key_for, values_for

from shared.core.secagg.mpc3 import messages, party, secrets, shares
from shared.core.secagg.mpc3.client import share
from shared.errors import Refused, Rejected, Stale


def contents_of(payloads, dimension):
    first, second = (messages.payload_from_bytes(payloads[p], p, dimension) for p in (0, 1))
    return [bytes(first.first), bytes(first.second), bytes(second.second)]


def test_an_update_is_the_sum_of_its_shares():
    values = values_for(1, 1, 20_000)[0]
    contents = contents_of(shared(terms_for(2, 20_000), "client-0000", values), 20_000)
    words = [
        np.concatenate([piece.copy() for piece in shares.pieces(i, content, 20_000)])
        for i, content in enumerate(contents)
    ]
    assert (sum(words).view(np.int64) == values).all()


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": 0}, {"fewest_survivors": 1}, {"fewest_survivors": 4}, {"cohort": {"one": b"k" * 32}},
        {"party_keys": (b"k" * 32,) * 3}, {"party_keys": (b"a" * 32, b"b" * 32)}, {"seal_keys": (b"k" * 32,) * 3},
        {"gram_opener": 3}, {"sketch_size": 100}, {"sketch_size": 2048}, {"largest_weight": 0}, {"largest_weight": 2**32},
        {"norm_bound": 0}, {"norm_bound": 2**40}, {"dimension": 800_000}, {"fewest_selected": 1}, {"fewest_selected": 3},
        {"norm_bound": 2**39, "largest_weight": 2**19},
    ],
)  # fmt: skip
def test_terms_that_protect_nothing_or_may_wrap_are_refused(change):
    with pytest.raises(Refused):
        replace(terms_for(3, 1), **change)


def test_the_bound_of_a_gram_entry_is_the_worst_sketch():
    """All values at the extreme, and signs that let every bucket add up."""
    assert terms_for(2, 640).largest_gram_entry == 64 * (10 * 2**15) ** 2
    assert terms_for(2, 1_000_000, sketch_size=1024).largest_gram_entry < 2**63
    assert terms_for(2, 5_000_000, sketch_size=0).largest_gram_entry == 0
    assert (terms_for(2, 9).gram_bits, terms_for(2, 9, norm_bound=2**14).gram_bits) == (64, 44)
    assert terms_for(2, 9, norm_bound=2**14 + 1).gram_bits == 64


def test_every_term_changes_the_digest():
    terms = terms_for(3, 20)
    changes = [
        {"round_id": "job-r2"}, {"job_id": "job2"}, {"group_id": "g2"}, {"dimension": 21}, {"sketch_size": 128},
        {"gram_opener": 1}, {"fewest_survivors": 3}, {"largest_weight": 2}, {"norm_bound": 5},
        {"fewest_survivors": 3, "fewest_selected": 3},
        {"cohort": {**terms.cohort, "client-0000": bytes(32)}}, {"party_keys": terms.party_keys[::-1]},
        {"seal_keys": terms.seal_keys[::-1]},
    ]  # fmt: skip
    assert len({terms.digest} | {replace(terms, **change).digest for change in changes}) == len(changes) + 1


@pytest.mark.parametrize("bad", [2**15, -(2**15) - 1])
def test_a_value_beyond_16_bits_is_not_shared(bad):
    with pytest.raises(Rejected, match="16 bits"):
        shared(terms_for(2, 2), "client-0000", np.array([0, bad], np.int32))


@pytest.mark.parametrize("values", [np.zeros(3, np.int32), np.zeros(2, np.int64), np.zeros((2, 1), np.int32)])
def test_an_update_of_another_shape_or_type_is_not_shared(values):
    with pytest.raises(Rejected, match="an update is"):
        shared(terms_for(2, 2), "client-0000", values)


def test_a_client_shares_under_its_own_key_alone():
    with pytest.raises(Rejected, match="under this key"):
        share(np.zeros(2, np.int32), terms_for(2, 2), "client-0000", key_for("client-0001"), SeededBytes(1))


@pytest.mark.parametrize("index", THREE)
def test_damaged_and_foreign_payloads_are_rejected_before_they_touch_a_sum(index):
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    good = run.payloads["client-0000"][index]
    forged = []
    for position in range(0, len(good), 8):
        content = bytearray(good)
        content[position] ^= 1
        forged.append(bytes(content))
    for content in [
        *forged,
        good[:-8],
        good + bytes(8),
        b"",
        bytes(len(good)),
        run.payloads["client-0000"][index - 1],
    ]:
        with pytest.raises(Rejected):
            party.receive(run.parties[index], run.held[index], "client-0000", content)
    for name in ("client-0001", "stranger"):
        with pytest.raises(Rejected):
            party.receive(run.parties[index], run.held[index], name, good)
    assert not run.held[index].totals.any()
    assert not run.held[index].gram.sketches.any()


def test_a_payload_under_other_terms_is_rejected():
    terms = terms_for(3, 20)
    run = Round.of(terms, values_for(4, 3, 20))
    other = replace(terms, round_id="job-r2")
    run.payloads["client-0000"] = shared(other, "client-0000", np.ones(20, np.int32))
    with pytest.raises(Rejected, match="signature"):
        run.receive(0, "client-0000")


@pytest.mark.parametrize("wrong", THREE)
def test_a_share_that_the_client_did_not_sign_is_rejected_by_both_holders_with_its_name(wrong):
    """The other holder of nothing wrong accepts; the client is then missing at two parties, and left out."""
    values = values_for(4, 4, 20)
    run = Round.of(terms_for(4, 20), values)
    contents = contents_of(run.payloads["client-0003"], 20)
    given = list(contents)
    given[wrong] = bytes(len(contents[wrong]))
    run.payloads["client-0003"] = signed_payloads(run.terms, "client-0003", contents, given)
    run.upload("client-0000", "client-0001", "client-0002")
    refused = []
    for index in THREE:
        try:
            run.receive(index, "client-0003")
        except Rejected as error:
            assert f"share {wrong} of client-0003" in str(error)
            refused.append(index)
    assert sorted(refused) == sorted({wrong, (wrong - 1) % 3})
    run.freeze()
    assert list(run.parties[0].faults) == ["client-0003"]
    assert (run.sum().values == values[:3].sum(axis=0)).all()


def test_a_client_that_gives_two_holders_of_one_share_different_ones_is_named_and_left_out():
    """Each payload is sound by itself and signed; only the comparison tells."""
    values = values_for(4, 4, 20)
    run = Round.of(terms_for(4, 20), values)
    again = shared(run.terms, "client-0002", values[2], seed="another")
    run.payloads["client-0002"] = (*run.payloads["client-0002"][:2], again[2])
    run.upload(*run.terms.cohort)
    run.freeze()
    for p in run.parties:
        assert p.faults == {"client-0002": "signed different uploads for different parties"}
        assert "client-0002" not in dict(p.survivors.uploads)
    assert (run.sum().values == values[[0, 1, 3]].sum(axis=0)).all()


def test_a_second_upload_of_a_client_is_rejected():
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    run.upload("client-0001")
    before = run.held[0].totals.copy()
    run.payloads["client-0001"] = shared(run.terms, "client-0001", np.ones(20, np.int32), seed="again")
    with pytest.raises(Rejected, match="two uploads"):
        run.receive(0, "client-0001")
    assert (run.held[0].totals == before).all()


def closed(values, terms):
    run = Round.of(terms, values)
    run.upload(*terms.cohort)
    run.parties = [party.close(p, held) for p, held in zip(run.parties, run.held, strict=True)]
    return run, {i: party.holdings(run.parties[i]) for i in THREE}


def test_an_upload_after_the_close_is_stale_and_touches_nothing():
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    run.upload("client-0000", "client-0001")
    once = party.close(run.parties[0], run.held[0])
    assert party.close(once, run.held[0]) is once
    before = run.held[0].totals.copy()
    with pytest.raises(Stale):
        party.receive(once, run.held[0], "client-0002", run.payloads["client-0002"][0])
    assert (run.held[0].totals == before).all()


def test_a_party_that_shows_what_a_client_did_not_sign_is_named():
    run, holdings = closed(values_for(4, 3, 20), terms_for(3, 20))
    name, receipt = holdings[1].receipts[0]
    forged = replace(receipt, commitments=(bytes(32), *receipt.commitments[1:]))
    stranger = ("stranger", receipt)
    for receipts in (((name, forged), *holdings[1].receipts[1:]), (*holdings[1].receipts, stranger)):
        lie = replace(holdings[1], receipts=receipts)
        with pytest.raises(Rejected, match="party 1"):
            party.settle(run.parties[0], {1: lie, 2: holdings[2]})


def test_holdings_of_other_terms_parties_or_too_few_are_rejected():
    run, holdings = closed(values_for(4, 3, 20), terms_for(3, 20))
    for others in (
        {1: holdings[1]}, {1: holdings[2], 2: holdings[1]}, {1: replace(holdings[1], terms_digest=bytes(32)), 2: holdings[2]},
        {0: holdings[0], 1: holdings[1]}, {1: replace(holdings[1], receipts=()), 2: holdings[2]},
    ):  # fmt: skip
        with pytest.raises(Rejected):
            party.settle(run.parties[0], others)
    settled = party.settle(run.parties[0], {1: holdings[1], 2: holdings[2]})
    with pytest.raises(Stale):
        party.settle(settled, {1: holdings[1], 2: holdings[2]})


def test_a_party_that_tells_the_others_different_holdings_stops_the_round():
    """The two honest ones compute different survivor sets, and each lacks the other's signature over its own."""
    run, holdings = closed(values_for(4, 4, 20), terms_for(4, 20))
    shortened = replace(holdings[2], receipts=holdings[2].receipts[:3])
    first = party.settle(run.parties[0], {1: holdings[1], 2: holdings[2]})
    second = party.settle(run.parties[1], {0: holdings[0], 2: shortened})
    assert first.survivors != second.survivors
    for own, honest in ((first, 1), (second, 0)):
        signatures = {
            0: sign(0, first.survivors.message()),
            1: sign(1, second.survivors.message()),
            2: sign(2, own.survivors.message()),
        }
        with pytest.raises(Rejected, match=f"party {honest} signed something else"):
            party.freeze(own, signatures)


@pytest.mark.parametrize("missing", THREE)
def test_the_set_freezes_with_all_three_signatures_alone(missing):
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    run.upload(*run.terms.cohort)
    run.settle()
    message = run.parties[0].survivors.message()
    signatures = {i: sign(i, message) for i in THREE if i != missing}
    for forged in ({}, {missing: bytes(64)}, {missing: sign((missing + 1) % 3, message)}):
        with pytest.raises(Rejected, match=f"party {missing}"):
            party.freeze(run.parties[0], signatures | forged)
    once = party.freeze(run.parties[0], signatures | {missing: sign(missing, message)})
    assert once.frozen


def test_too_few_survivors_are_not_frozen():
    run = Round.of(terms_for(3, 20, fewest_survivors=3), values_for(4, 3, 20))
    run.upload("client-0000", "client-0001")
    with pytest.raises(Rejected, match="3 are needed"):
        run.settle()


def test_holdings_survive_their_bytes_and_nothing_else_does():
    _, holdings = closed(values_for(4, 3, 20), terms_for(3, 20))
    content = holdings[1].to_bytes()
    assert messages.holdings_from_bytes(content) == holdings[1]
    twice = replace(holdings[1], receipts=holdings[1].receipts[:1] * 2).to_bytes()
    unordered = replace(holdings[1], receipts=holdings[1].receipts[::-1]).to_bytes()
    not_text = content[:35] + b"\xff" + content[36:]
    for bad in (
        b"",
        content[:-1],
        content + b"\0",
        twice,
        unordered,
        not_text,
        content[:32] + b"\3" + content[33:],
    ):
        with pytest.raises(Rejected):
            messages.holdings_from_bytes(bad)


def test_the_parties_share_seed_and_keys_as_they_should():
    each = secrets_for(terms_for(2, 2))
    assert len({s.sketch_seed for s in each}) == len({s.check_key for s in each}) == 1
    assert all(each[p].keys[1] == each[(p + 1) % 3].keys[0] for p in THREE)
    assert len({s.keys[0] for s in each}) == 3
    assert secrets_for(terms_for(2, 2), seed=1)[0].sketch_seed != each[0].sketch_seed
    assert secrets_for(terms_for(2, 3))[0].sketch_seed != each[0].sketch_seed


def test_a_coin_is_shown_after_all_commitments_and_must_fit_its_own():
    terms = terms_for(2, 2)
    setups = [secrets.begin(terms, i, SeededBytes(i)) for i in THREE]
    commitments = {i: setups[i].commitment for i in THREE}
    with pytest.raises(Rejected, match="come first"):
        setups[0].opening(1, {0: commitments[0], 1: commitments[1]})
    with pytest.raises(Rejected, match="come first"):
        setups[0].opening(1, commitments | {0: bytes(32)})
    openings = {i: setups[i].opening(0, commitments) for i in (1, 2)}
    assert (len(openings[1]), len(openings[2])) == (64, 32)
    for bad in (
        {1: openings[1]}, {1: openings[1][:32], 2: openings[2]}, {1: openings[1], 2: bytes(32)},
        {1: bytes(1) + openings[1][1:], 2: openings[2]}, {1: openings[1], 2: openings[2] + bytes(32)},
    ):  # fmt: skip
        with pytest.raises(Rejected):
            secrets.finish(setups[0], commitments, bad)
    assert secrets.finish(setups[0], commitments, openings).keys == (setups[0].key, setups[1].key)


def test_secrets_do_not_show_in_a_representation():
    each = secrets_for(terms_for(2, 2))
    setup = secrets.begin(terms_for(2, 2), 0, SeededBytes(0))
    for shown, hidden in ((repr(each[0]), each[0].sketch_seed), (repr(setup), setup.coin)):
        assert repr(hidden) not in shown
