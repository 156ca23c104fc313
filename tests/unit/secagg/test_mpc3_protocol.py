"""The opened sum is the plain sum, exactly; only one is ever opened, and of nobody who was not compared."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import numpy as np
import pytest
from mpc3_round import THREE, Round, raw_shares, secrets_for, shared, sign, terms_for
from oneshot_round import SeededBytes, key_for, values_for

from shared.core.secagg.mpc3 import client, messages, opening, party, shares
from shared.core.secagg.mpc3.selection import Selection, selection_from_bytes
from shared.errors import Rejected, Stale

GOLDEN = Path(__file__).parent / "golden" / "mpc3.json"
SIZES = [(n, d) for n in (2, 3, 10, 100) for d in (1, 1_000)] + [(2, 100_000), (3, 100_000), (10, 100_000)]


def frozen(terms, values, *names, seed=0):
    run = Round.of(terms, values, seed)
    run.upload(*(names or terms.cohort))
    run.freeze()
    return run


@pytest.mark.parametrize(("clients", "dimension"), SIZES)
def test_the_opened_sum_is_the_plain_sum(clients, dimension):
    values = values_for(clients, clients, dimension)
    aggregate = frozen(terms_for(clients, dimension), values).sum()
    assert (aggregate.values == values.sum(axis=0)).all()
    assert len(aggregate.weights) == clients


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "dimension"), [(1_000, 1_000), (100, 100_000)])
def test_large_sums_are_the_plain_ones_too(clients, dimension):
    values = values_for(clients, clients, dimension)
    assert (frozen(terms_for(clients, dimension), values).sum().values == values.sum(axis=0)).all()


@pytest.mark.parametrize("extreme", [-(2**15), 2**15 - 1])
def test_a_full_cohort_of_extreme_values_with_the_largest_weight_does_not_wrap(extreme):
    terms = terms_for(4, 70, largest_weight=2**32 - 1)
    run = frozen(terms, np.full((4, 70), extreme, np.int32))
    assert (run.sum([2**32 - 1] * 4, unit=2**32 - 1).values == 4 * extreme * (2**32 - 1)).all()


@pytest.mark.parametrize("opener", THREE)
def test_any_party_opens_the_same_sum(opener):
    values = values_for(1, 3, 100)
    assert (frozen(terms_for(3, 100), values).sum(opener=opener).values == values.sum(axis=0)).all()


def test_the_order_of_arrival_may_be_another_at_each_party():
    values = values_for(2, 40, 500)
    terms = terms_for(40, 500, norm_bound=2**22)
    straight, mixed = Round.of(terms, values), Round.of(terms, values)
    straight.upload(*terms.cohort)
    names = list(terms.cohort)
    for index in THREE:
        for i in np.random.default_rng(index).permutation(40):
            mixed.receive(index, names[i])
    assert straight.freeze() == mixed.freeze()
    assert (straight.gram() == mixed.gram()).all()
    assert (mixed.sum().values == values.sum(axis=0)).all()


def test_a_duplicate_changes_nothing():
    values = values_for(4, 3, 20)
    run = Round.of(terms_for(3, 20), values)
    run.upload(*run.terms.cohort)
    for index in THREE:
        with pytest.raises(Stale):
            run.receive(index, "client-0001")
    run.freeze()
    with pytest.raises(Stale):
        run.receive(0, "client-0001")
    assert (run.sum().values == values.sum(axis=0)).all()


def test_a_client_that_not_all_parties_have_is_taken_out_and_named():
    values = values_for(5, 5, 300)
    run = Round.of(terms_for(5, 300), values)
    run.upload(*list(run.terms.cohort)[:3])
    run.receive(0, "client-0003")
    run.receive(1, "client-0003")
    run.freeze()
    assert run.parties[2].faults == {"client-0003": "no upload of it was accepted by party 2"}
    signatures = run.choose()
    assert [list(p.pending) for p in run.parties] == [["client-0003"], ["client-0003"], []]
    with pytest.raises(Rejected, match="delivered again"):
        run.open(signatures)
    run.correct()
    aggregate = run.open(signatures)
    assert (aggregate.values == values[:3].sum(axis=0)).all()
    assert "client-0003" not in aggregate.weights


def test_rejected_rows_are_delivered_again_and_subtracted():
    values = values_for(6, 10, 2_000)
    run = frozen(terms_for(10, 2_000), values)
    weights = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    aggregate = run.sum(weights)
    assert (aggregate.values == weights @ values).all()
    assert list(aggregate.weights.values()) == [1] * 7


def test_weights_are_applied_and_the_unit_needs_no_delivery():
    values = values_for(7, 6, 40_000)
    run = frozen(terms_for(6, 40_000, largest_weight=1024), values)
    weights = np.array([1024, 700, 1024, 0, 1, 1024])
    signatures = run.choose(weights, unit=1024)
    assert list(run.parties[0].pending) == ["client-0001", "client-0003", "client-0004"]
    run.correct()
    assert (run.open(signatures).values == weights @ values.astype(np.int64)).all()


def test_a_delivery_counts_once_and_only_of_the_same_upload():
    values = values_for(8, 4, 50)
    run = frozen(terms_for(4, 50), values)
    signatures = run.choose([1, 1, 1, 0])
    other = shared(run.terms, "client-0003", values[3], seed="another")
    with pytest.raises(Rejected, match="another upload"):
        opening.correct(run.parties[0], run.held[0], "client-0003", other[0])
    forged = bytearray(run.payloads["client-0003"][0])
    forged[-1] ^= 1
    with pytest.raises(Rejected, match="not the one that it signed"):
        opening.correct(run.parties[0], run.held[0], "client-0003", bytes(forged))
    run.correct()
    for name in ("client-0003", "client-0000", "stranger"):
        with pytest.raises(Stale):
            opening.correct(run.parties[0], run.held[0], name, run.payloads["client-0003"][0])
    assert (run.open(signatures).values == values[:3].sum(axis=0)).all()


def test_a_party_signs_one_selection():
    run = frozen(terms_for(4, 50), values_for(8, 4, 50))
    run.choose([1, 1, 1, 0])
    same = run.parties[0].selection
    assert opening.choose(run.parties[0], run.held[0], same) is run.parties[0]
    with pytest.raises(Rejected, match="another selection"):
        opening.choose(run.parties[0], run.held[0], replace(same, weights=(1, 1, 1, 1)))


@pytest.mark.parametrize("liar", THREE)
def test_two_sums_never_both_open(liar):
    """A party that signs everything tells the other two different selections."""
    run = frozen(terms_for(4, 50), values_for(8, 4, 50))
    digest = run.parties[0].survivors.digest
    told = {}
    honest = [i for i in THREE if i != liar]
    for index, weights in zip(honest, [(1, 1, 1, 1), (0, 1, 1, 1)], strict=True):
        told[index] = Selection(digest, 1, weights)
        run.parties[index] = opening.choose(run.parties[index], run.held[index], told[index])
    run.correct(honest)
    signed = {i: sign(i, told[i].message()) for i in honest}
    for index in honest:
        signatures = signed | {liar: sign(liar, told[index].message())}
        with pytest.raises(Rejected, match=f"party {next(i for i in honest if i != index)} signed something"):
            opening.release(run.parties[index], run.held[index], signatures, liar)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": (1, 0, 0, 0)}, {"weights": (2, 1, 1, 1)}, {"weights": (1, 1, 1)}, {"weights": (-1, 1, 1, 1)}, {"unit": 0},
        {"unit": 2}, {"survivors_digest": bytes(32)}, {"weights": (0, 0, 0, 0)},
    ],
)  # fmt: skip
def test_a_selection_that_the_terms_do_not_allow_is_not_signed(change):
    run = frozen(terms_for(4, 50), values_for(8, 4, 50))
    before = run.held[0].totals.copy()
    with pytest.raises(Rejected):
        opening.choose(run.parties[0], run.held[0], replace(opening.everyone(run.parties[0]), **change))
    assert (run.held[0].totals == before).all()


def test_nothing_is_released_before_its_time():
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    run.upload(*run.terms.cohort)
    with pytest.raises(Rejected, match="takes uploads"):
        party.holdings(run.parties[0])
    with pytest.raises(Rejected, match="not compared"):
        party.freeze(run.parties[0], {})
    run.settle()
    with pytest.raises(Rejected, match="not frozen"):
        opening.everyone(run.parties[0])
    with pytest.raises(Rejected, match="not frozen"):
        opening.choose(run.parties[0], run.held[0], Selection(bytes(32), 1, (1, 1, 1)))
    with pytest.raises(Rejected, match="no selection"):
        opening.release(run.parties[0], run.held[0], {}, 1)


@pytest.mark.parametrize(
    ("liar", "lie"),
    [
        (2, lambda release: {"values": release.values + np.uint64(1)}),
        (2, lambda release: {"hashes": (bytes(32), release.hashes[1])}),
        (2, lambda release: {"hashes": (release.hashes[0], bytes(32))}),
        (2, lambda _: {"selection_digest": bytes(32)}),
        (0, lambda release: {"hashes": (bytes(32), release.hashes[1])}),
        (0, lambda release: {"hashes": (release.hashes[0], bytes(32))}),
        (0, lambda _: {"selection_digest": bytes(32)}),
    ],
)
def test_a_party_that_lies_about_its_sum_is_noticed(liar, lie):
    run = frozen(terms_for(3, 200), values_for(9, 3, 200))
    signatures = run.choose()
    with pytest.raises(Rejected, match="different sums|another sum"):
        run.open(
            signatures,
            opener=1,
            change=lambda release: replace(release, **lie(release)) if release.party == liar else release,
        )


@pytest.mark.parametrize("share", THREE)
@pytest.mark.parametrize("at_own_slot", [0, 1])
def test_a_party_whose_sum_is_wrong_is_noticed_by_the_replicated_copy(share, at_own_slot):
    """Whichever copy of whichever share is wrong, for every opener."""
    for opener in THREE:
        run = frozen(terms_for(3, 200), values_for(9, 3, 200))
        signatures = run.choose()
        liar = (share - at_own_slot) % 3
        run.held[liar].totals[at_own_slot, 77] += np.uint64(5)
        with pytest.raises(Rejected, match=f"have different sums of share {share}"):
            run.open(signatures, opener=opener)


def test_a_sum_beyond_16_bits_is_not_passed_on():
    run = Round.of(terms_for(3, 20), values_for(9, 3, 20))
    run.payloads["client-0001"] = raw_shares(run.terms, "client-0001", [2**17] * 20)
    run.upload(*run.terms.cohort)
    run.freeze()
    with pytest.raises(Rejected, match="beyond what the terms"):
        run.sum()


def test_a_client_that_the_norm_check_passes_cannot_make_the_round_fail():
    """Coordinates up to the check's own bound, on top of an honest sum at its extreme."""
    terms = terms_for(3, 20, norm_bound=2**18)
    values = np.full((3, 20), 2**15 - 1)
    values[1] = 2**18 // 5
    run = Round.of(terms, np.minimum(values, 2**15 - 1).astype(np.int32))
    run.payloads["client-0001"] = raw_shares(terms, "client-0001", values[1])
    run.upload(*terms.cohort)
    run.freeze()
    assert run.parties[0].flagged == frozenset()
    assert (run.sum().values == values.sum(axis=0)).all()


def test_a_sum_that_nearly_is_one_update_is_not_opened():
    terms = terms_for(10, 20, largest_weight=100, fewest_survivors=8, fewest_selected=4)
    run = frozen(terms, values_for(8, 10, 20))
    for weights, refused in (
        ((50, 50, 50, 0, 0, 0, 0, 0, 0, 0), "a sum of 3 is not opened: the terms say 4"),
        ((100, 10, 10, 10, 10, 10, 10, 10, 10, 10), "one update would be 53% of the sum"),
    ):
        selection = replace(opening.everyone(run.parties[0]), unit=1, weights=weights)
        with pytest.raises(Rejected, match=refused):
            opening.choose(run.parties[0], run.held[0], selection)
    weights = np.array([90, 10, 10, 10, 10, 10, 10, 10, 10, 10])  # just half
    assert (run.sum(weights, unit=10).values == weights @ values_for(8, 10, 20).astype(np.int64)).all()


def test_releases_of_the_wrong_parties_are_rejected():
    run = frozen(terms_for(3, 20), values_for(9, 3, 20))
    signatures = run.choose()
    given = {i: opening.release(run.parties[i], run.held[i], signatures, 1) for i in (0, 2)}
    for releases in ({0: given[0]}, {0: given[0], 1: given[2]}, {0: given[2], 2: given[0]}, {}):
        with pytest.raises(Rejected):
            opening.open_sum(run.parties[1], run.held[1], signatures, releases)
    with pytest.raises(Rejected, match="party 2 signed"):
        opening.open_sum(run.parties[1], run.held[1], {0: signatures[0], 1: signatures[1]}, given)
    with pytest.raises(Rejected, match="releases nothing to 0"):
        opening.release(run.parties[0], run.held[0], signatures, 0)


def test_messages_of_the_opening_survive_their_bytes_and_nothing_else_does():
    run = frozen(terms_for(3, 20), values_for(9, 3, 20))
    signatures = run.choose()
    release = opening.release(run.parties[2], run.held[2], signatures, 1)
    content = release.to_bytes()
    assert opening.release_from_bytes(content, 20).to_bytes() == content
    for bad in (
        content[:-8],
        content[:-1],
        content + b"\0",
        b"",
        content[:50],
        b"\3" + content[1:],
        b"\1" + content[1:],
    ):
        with pytest.raises(Rejected):
            opening.release_from_bytes(bad, 20)
    selection = run.parties[0].selection
    assert selection_from_bytes(selection.to_bytes()) == selection
    for bad in (b"", selection.to_bytes()[:-1], bytes(35)):
        with pytest.raises(Rejected):
            selection_from_bytes(bad)


@pytest.mark.parametrize("value", [0, 2**15 - 1, -(2**15)])
@pytest.mark.parametrize("index", THREE)
def test_what_one_party_holds_before_release_looks_uniform(index, value):
    """Chi-squared over 256 bins of each byte's position, of both sums, of the explicit share, and of sketches."""
    seed = token_hex(16)
    print("seed", seed)
    terms = terms_for(3, 60_000, sketch_size=1024)
    run = frozen(terms, np.full((3, 60_000), value, np.int32), seed=seed)
    held = run.held[index]
    contents = [
        messages.payload_from_bytes(run.payloads[name][index], index, 60_000) for name in terms.cohort
    ]
    words = [held.totals[0], held.totals[1], held.totals[0] + held.totals[1]]
    for payload in contents:
        pair = [
            np.concatenate([piece.copy() for piece in shares.pieces(i, content, 60_000)])
            for i, content in zip(shares.held_by(index), (payload.first, payload.second), strict=True)
        ]
        words += [*pair, pair[0] + pair[1], pair[0] - pair[1]]
    words.append(held.gram.sketches[:, :3].ravel())
    for vector in words:
        for shift in (0, 8, 16, 56):
            counts = np.bincount(((vector >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
            expected = len(vector) / 256
            assert (
                (counts - expected) ** 2 / expected
            ).sum() < 400  # 255 degrees of freedom: 1 in 50 million


def test_the_third_share_cannot_be_confirmed_by_its_hash():
    """Party 0 holds both seeds; from a guessed update it computes share 2, but not its commitment."""
    terms, values = terms_for(2, 4), np.array([1, 2, 3, 4], np.int32)
    first = messages.payload_from_bytes(shared(terms, "client-0000", values)[0], 0, 4)

    class OtherSalt(SeededBytes):
        def __call__(self, count):
            self.drawn = getattr(self, "drawn", 0) + 1
            content = super().__call__(count)
            return bytes(32) if self.drawn == 3 else content

    draw = OtherSalt(0, "client-0000")
    again = client.share(values, terms, "client-0000", key_for("client-0000"), draw)
    second = messages.payload_from_bytes(again[0], 0, 4)
    assert bytes(first.first) == bytes(second.first)
    assert bytes(first.second) == bytes(second.second)
    assert first.receipt.commitments[:2] == second.receipt.commitments[:2]
    assert first.receipt.commitments[2] != second.receipt.commitments[2]


def test_memory_of_a_party_is_what_it_says():
    terms = terms_for(5, 10_000, sketch_size=128, norm_bound=2**22)
    run = frozen(terms, values_for(1, 5, 10_000))
    held = run.held[0]
    assert held.totals.nbytes == 16 * 10_000
    assert held.gram.limbs.nbytes == 3 * 5 * 2 * 128 * 8
    assert held.gram.products.nbytes == 5 * 5 * 8
    assert held.projections.nbytes == 5 * 2 * 40 * 8


def transcript():
    """What passes between clients and parties in one round of three clients, as hashes and values."""
    terms = terms_for(3, 130, largest_weight=4, norm_bound=2**20)
    values = values_for(11, 3, 130)
    run = Round.of(terms, values, seed="golden")
    run.upload(*terms.cohort)
    survivors = run.freeze()
    gram = run.gram()
    aggregate = run.sum([4, 1, 0], unit=4)

    def sha256(content):
        return hashlib.sha256(content).hexdigest()

    return {
        "terms_digest": terms.digest.hex(),
        "payloads_sha256": {name: [sha256(p) for p in payloads] for name, payloads in run.payloads.items()},
        "payload": run.payloads["client-0000"][0].hex(),
        "secrets": [
            [s.sketch_seed.hex(), s.check_key.hex(), s.keys[0].hex(), s.keys[1].hex()]
            for s in secrets_for(terms, "golden")
        ],
        "survivors_message": survivors.message().hex(),
        "survivors_signatures": [sign(i, survivors.message()).hex() for i in THREE],
        "selection": run.parties[0].selection.to_bytes().hex(),
        "sent_sha256": {
            " ".join(map(str, kind)) if isinstance(kind, tuple) else kind: (
                sha256(content)
                if isinstance(content, bytes)
                else [[sha256(c) for c in layer] for layer in content]
            )
            for kind, content in run.sent.items()
        },
        "gram": gram.tolist(),
        "values": aggregate.values.tolist(),
    }


def test_a_whole_round_is_known():
    assert transcript() == json.loads(GOLDEN.read_text())
