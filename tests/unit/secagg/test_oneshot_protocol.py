"""The opened sum is the plain sum within its predicted error; nothing else is ever opened."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes, token_hex

import numpy as np
import pytest
from oneshot_round import Round, SeededBytes, encrypted, key_for, terms_for, values_for

from shared.core.secagg import sealing
from shared.core.secagg.oneshot import client, committee, encoding, messages, packed_shamir, server
from shared.core.secagg.oneshot.client import Client, encrypt
from shared.core.secagg.oneshot.packed_shamir import Scheme, scheme_for
from shared.core.secagg.oneshot.ring import Q
from shared.core.secagg.oneshot.terms import CHECKS, Terms, public_polynomials
from shared.errors import Refused, Rejected, Stale

GOLDEN = Path(__file__).parent / "golden" / "oneshot.json"


def opened(terms, values, survivors=None, lost=()):
    run = Round.of(terms, values)
    names = sorted(terms.cohort)
    run.upload(*(names if survivors is None else [names[i] for i in survivors]))
    run.freeze()
    run.ask(*(i for i in range(terms.scheme.holders) if i not in lost))
    return run.finalise()


def assert_within_the_prediction(aggregate, expected):
    error = aggregate.values - expected
    assert np.abs(error).max() <= 8 * aggregate.standard_error
    if len(error) >= 1000:
        assert error.std() == pytest.approx(aggregate.standard_error, rel=0.15)


@pytest.mark.parametrize("dimension", [1, 1_000, 10_000])
@pytest.mark.parametrize("clients", [2, 3, 10, 100])
def test_the_opened_sum_is_the_plain_sum_within_the_predicted_error(clients, dimension):
    values = values_for(clients, clients, dimension)
    aggregate = opened(terms_for(clients, dimension), values)
    assert_within_the_prediction(aggregate, values.sum(axis=0))
    assert aggregate.liars == ()


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "dimension"), [(1000, 1_000), (100, 100_000), (10, 1_000_000)])
def test_large_sums_open_too(clients, dimension):
    values = values_for(clients, clients, dimension)
    aggregate = opened(terms_for(clients, dimension, scheme_for(64)), values, lost=range(11))
    assert_within_the_prediction(aggregate, values.sum(axis=0))


def test_a_small_cohorts_sum_is_exact_after_rounding():
    values = values_for(3, 10, 5_000)
    aggregate = opened(terms_for(10, 5_000), values)
    assert (np.rint(aggregate.values) == values.sum(axis=0)).all()


@pytest.mark.parametrize("extreme", [-(2**15), 2**15 - 1])
def test_a_full_cohort_of_extreme_values_does_not_wrap(extreme):
    """The largest cohort at each scale, with the largest error that the table has, in plain integers."""
    for scale in (16, 32, 64, 128, 256, 512, 1024):
        most = encoding.largest_cohort(scale)
        assert most * (abs(extreme) * scale + 42) <= Q // 2
        assert (most + 1) * (2**15 * scale + 42) > Q // 2


def test_the_largest_cohorts_are_known():
    assert [encoding.largest_cohort(scale) for scale in (16, 32, 64, 1024)] == [2047, 1023, 511, 31]
    assert [encoding.scale_for(n) for n in (2, 31, 32, 511, 512, 1023, 1024, 2047)] == [
        1024, 1024, 512, 64, 32, 32, 16, 16,
    ]  # fmt: skip


@pytest.mark.slow
def test_1023_clients_at_the_extreme_open_to_their_sum():
    terms = terms_for(1023, 8)
    values = np.full((1023, 8), -(2**15), np.int32)
    values[:, 1] = 2**15 - 1
    assert_within_the_prediction(opened(terms, values), values.sum(axis=0))


def test_a_cohort_over_the_bound_is_refused_with_the_size_that_works():
    with pytest.raises(Refused) as refused:
        encoding.scale_for(2048)
    assert "2047" in refused.value.remedy


@pytest.mark.parametrize(
    "change",
    [{"dimension": 0}, {"fewest_survivors": 1}, {"fewest_survivors": 4}, {"holder_keys": (b"k" * 32,)}, {"cohort": {"one": b"k" * 32}}],
)  # fmt: skip
def test_terms_that_protect_nothing_are_refused(change):
    with pytest.raises(Refused):
        replace(terms_for(3, 1), **change)


@pytest.mark.parametrize("bad", [2**15, -(2**15) - 1])
def test_a_value_beyond_16_bits_is_not_encrypted(bad):
    with pytest.raises(Rejected, match="16 bits"):
        encrypted(terms_for(2, 2), "client-0000", np.array([0, bad], np.int32))


def test_clients_that_never_upload_are_not_in_the_sum():
    values = values_for(5, 10, 1_000)
    aggregate = opened(terms_for(10, 1_000), values, survivors=[0, 3, 4, 8])
    assert_within_the_prediction(aggregate, values[[0, 3, 4, 8]].sum(axis=0))
    assert aggregate.survivors == ("client-0000", "client-0003", "client-0004", "client-0008")


def test_a_client_whose_ciphertext_is_late_is_left_out_though_its_shares_arrived():
    values = values_for(6, 4, 100)
    run = Round.of(terms_for(4, 100), values)
    run.upload("client-0000", "client-0001", "client-0002")
    run.deliver("client-0003")
    run.freeze()
    with pytest.raises(Stale):
        run.receive("client-0003")
    run.ask()
    assert_within_the_prediction(run.finalise(), values[:3].sum(axis=0))


def test_the_order_of_arrival_changes_nothing():
    values = values_for(7, 5, 50)
    runs = [Round.of(terms_for(5, 50), values) for _ in range(2)]
    for run, order in zip(runs, ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]), strict=True):
        run.upload(*(f"client-{i:04}" for i in order))
        run.freeze()
        run.ask()
    first, second = (run.finalise() for run in runs)
    assert (first.values == second.values).all()


@pytest.mark.parametrize("lost", [(0,), (3,), (2,)])
def test_any_quorum_of_holders_opens_the_same_sum(lost):
    values = values_for(8, 5, 50)
    terms = terms_for(5, 50)
    whole, without = opened(terms, values), opened(terms, values, lost=lost)
    assert (whole.values == without.values).all()


def test_fewer_holders_than_the_quorum_open_nothing():
    run = Round.of(terms_for(3, 5), values_for(1, 3, 5))
    run.upload(*run.terms.cohort)
    run.freeze()
    run.ask(0, 1)
    with pytest.raises(Rejected, match="do not open a sum"):
        run.finalise()
    run.ask(2)
    run.finalise()


def lie(*indices):
    def change(answer):
        if answer.holder not in indices:
            return answer
        values = answer.values.copy()
        values[0] ^= 1
        return replace(answer, values=values)

    return change


def test_a_lying_holder_is_named_and_left_out_where_two_answers_are_spare():
    terms = terms_for(3, 100, Scheme(7, 0, 2))
    values = values_for(9, 3, 100)
    run = Round.of(terms, values)
    run.upload(*terms.cohort)
    run.freeze()
    run.ask(change=lie(4))
    aggregate = run.finalise()
    assert aggregate.liars == (4,)
    assert_within_the_prediction(aggregate, values.sum(axis=0))


def test_a_lying_holder_is_noticed_where_one_answer_is_spare():
    run = Round.of(terms_for(3, 100), values_for(9, 3, 100))
    run.upload(*run.terms.cohort)
    run.freeze()
    run.ask(change=lie(1))
    with pytest.raises(Rejected, match="contradict"):
        run.finalise()


@pytest.mark.parametrize("dimension", [1, 100, 32_768 - CHECKS])
def test_a_lying_holder_is_noticed_even_where_no_answer_is_spare(dimension):
    """The zeros that end every update do not open as zeros; who lied cannot be told."""
    run = Round.of(terms_for(3, dimension), values_for(9, 3, dimension))
    run.upload(*run.terms.cohort)
    run.freeze()
    run.ask(0, 1, 2, change=lie(1))
    with pytest.raises(Rejected, match="did not open"):
        run.finalise()


def test_a_client_that_shares_another_secret_than_it_encrypts_with_is_noticed_but_not_named():
    terms = terms_for(3, 10)
    run = Round.of(terms, values_for(2, 3, 10))
    ciphertext = run.clients["client-0001"].upload.ciphertext
    blocks = packed_shamir.share(np.ones(2048, np.int64), terms.scheme, bytes(64))
    forged = client._signed(Client(terms, "client-0001"), ciphertext, tuple(blocks), key_for("client-0001"))
    run.clients["client-0001"] = forged
    run.upload(*terms.cohort)
    run.freeze()
    run.ask()
    with pytest.raises(Rejected, match="did not open"):
        run.finalise()


def test_a_duplicate_upload_is_counted_once():
    values = values_for(4, 3, 20)
    run = Round.of(terms_for(3, 20), values)
    run.upload(*run.terms.cohort)
    before = run.total.copy()
    with pytest.raises(Stale):
        run.receive("client-0001")
    with pytest.raises(Stale):
        run.deliver("client-0001")
    assert (run.total == before).all()


def test_another_upload_of_the_same_client_is_rejected_by_server_and_holders():
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    run.upload("client-0001")
    before = run.total.copy()
    run.clients["client-0001"] = encrypted(run.terms, "client-0001", np.ones(20, np.int32), seed="again")
    with pytest.raises(Rejected, match="two uploads"):
        run.receive("client-0001")
    with pytest.raises(Rejected, match="two uploads"):
        run.deliver("client-0001")
    assert (run.total == before).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda upload: {"ciphertext": upload.ciphertext[:-4]},
        lambda upload: {"ciphertext": bytes(len(upload.ciphertext))},
        lambda upload: {"ciphertext": b"\xff" * len(upload.ciphertext)},
        lambda upload: {"shares_root": bytes(32)},
        lambda upload: {"signature": bytes(64)},
        lambda upload: {"ciphertext": b""},
    ],
)
def test_a_damaged_upload_is_rejected_before_it_touches_the_sum(damage):
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    upload = run.clients["client-0000"].upload
    run.clients["client-0000"] = replace(run.clients["client-0000"], upload=replace(upload, **damage(upload)))
    with pytest.raises(Rejected):
        run.receive("client-0000")
    assert not run.total.any()
    assert not run.session.uploads


def test_a_signed_ciphertext_out_of_the_ring_is_rejected():
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    good = run.clients["client-0000"].upload
    ciphertext = b"\xff" * len(good.ciphertext)
    message = messages.upload_message(
        run.terms, "client-0000", hashlib.sha256(ciphertext).digest(), good.shares_root
    )
    upload = messages.Upload(ciphertext, good.shares_root, sealing.sign(key_for("client-0000"), message))
    with pytest.raises(Rejected, match="not below"):
        server.receive(run.session, run.total, "client-0000", upload)


def test_a_stranger_and_a_forged_key_are_rejected():
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    good = run.clients["client-0000"]
    with pytest.raises(Rejected, match="cohort"):
        server.receive(run.session, run.total, "stranger", good.upload)
    with pytest.raises(Rejected, match="signature"):
        server.receive(run.session, run.total, "client-0001", good.upload)
    with pytest.raises(Rejected, match="cohort"):
        committee.keep(run.holders[0], "stranger", good.shares[0])
    with pytest.raises(Rejected, match="under this key"):
        encrypt(Client(run.terms, "client-0000"), np.ones(20, np.int32), key_for("server"), SeededBytes(1))


def test_a_share_that_the_client_did_not_sign_for_this_holder_is_rejected():
    """Else a server could send shares of zero in the name of all others, and open one client alone."""
    run = Round.of(terms_for(3, 20), values_for(4, 3, 20))
    shares = run.clients["client-0000"].shares
    for position in (0, 70, 100, -1):
        forged = bytearray(shares[0])
        forged[position] ^= 1
        with pytest.raises(Rejected):
            committee.keep(run.holders[0], "client-0000", bytes(forged))
    for content in (shares[1], shares[0][:-4], b"", b"\0" * len(shares[0])):
        with pytest.raises(Rejected):
            committee.keep(run.holders[0], "client-0000", content)
    with pytest.raises(Rejected):
        committee.keep(run.holders[0], "client-0001", shares[0])


def test_a_share_under_other_terms_is_rejected():
    """A server that tells one client another seed gets nothing that the committee will open."""
    terms = terms_for(3, 20)
    other = replace(terms, public_seed=b"another")
    share = encrypted(other, "client-0000", np.ones(20, np.int32)).shares[0]
    with pytest.raises(Rejected, match="signature"):
        committee.keep(committee.Holder(terms, 0), "client-0000", share)


def test_a_client_encrypts_once_and_then_repeats_its_bytes():
    once = encrypted(terms_for(3, 20), "client-0000", np.ones(20, np.int32))
    with pytest.raises(Rejected, match="already"):
        encrypt(once, np.ones(20, np.int32), key_for("client-0000"), SeededBytes(2))


def test_a_client_that_lost_its_memory_draws_another_secret_and_error():
    """The difference of the two ciphertexts of the same values is no small error."""
    terms = terms_for(3, 1000)
    uploads = [
        encrypt(Client(terms, "client-0000"), np.ones(1000, np.int32), key_for("client-0000"), token_bytes)
        for _ in range(2)
    ]
    first, second = (
        messages.ciphertext_from_bytes(c.upload.ciphertext, terms).astype(np.int64) for c in uploads
    )
    assert ((first - second) % Q > 2**20).mean() > 0.99


def test_no_message_carries_the_public_polynomials_and_every_term_changes_them():
    """A server-chosen `a` has no way in: clients derive it from the terms and encrypt takes none."""
    terms = terms_for(3, 20)
    base = public_polynomials(terms)
    changes = [
        {"public_seed": b"another"}, {"round_id": "job-r2"}, {"job_id": "job2"}, {"group_id": "g2"}, {"dimension": 21},
        {"fewest_survivors": 3}, {"cohort": {**terms.cohort, "client-0000": bytes(32)}}, {"server_key": bytes(32)},
        {"holder_keys": tuple(reversed(terms.holder_keys))}, {"scheme": Scheme(4, 0, 1)},
    ]  # fmt: skip
    assert len({terms.digest} | {replace(terms, **change).digest for change in changes}) == len(changes) + 1
    for change in changes:
        assert (public_polynomials(replace(terms, **change)) == base).mean() < 1e-3
    assert not {name for name in Terms.__dataclass_fields__ if name in ("a", "public")}


def test_a_holder_repeats_its_answer_and_refuses_a_second_survivor_set():
    run = Round.of(terms_for(4, 10), values_for(1, 4, 10))
    run.upload(*run.terms.cohort)
    full = run.freeze()
    fewer = replace(full, uploads=full.uploads[:3])
    answered = committee.respond(run.holders[0], full, run.signature(full))
    assert committee.respond(answered, full, run.signature(full)) is answered
    with pytest.raises(Rejected, match="another survivor set"):
        committee.respond(answered, fewer, run.signature(fewer))
    assert not answered.kept


@pytest.mark.parametrize("colluding", [0, 1, 2])
def test_two_survivor_sets_never_both_open(colluding):
    """A server that asks half of the holders for one set and half for another; those colluding answer both."""
    scheme = Scheme(7, colluding, 1)
    terms = terms_for(4, 10, scheme)
    run = Round.of(terms, values_for(1, 4, 10))
    run.upload(*terms.cohort)
    full = run.freeze()
    sets = (full, replace(full, uploads=full.uploads[1:]))
    for honest_first in range(scheme.holders - colluding + 1):
        answers = [0, 0]
        for index, holder in enumerate(run.holders):
            if index < colluding:
                for which, survivors in enumerate(sets):
                    committee.respond(holder, survivors, run.signature(survivors))
                    answers[which] += 1
                continue
            first = 0 if index < colluding + honest_first else 1
            answered = committee.respond(holder, sets[first], run.signature(sets[first]))
            answers[first] += 1
            with pytest.raises(Rejected):
                committee.respond(answered, sets[1 - first], run.signature(sets[1 - first]))
        assert min(answers) <= scheme.privacy < scheme.quorum


def test_a_survivor_set_that_the_terms_do_not_allow_gets_no_answer():
    run = Round.of(terms_for(4, 10, fewest=3), values_for(1, 4, 10))
    run.upload("client-0000", "client-0001", "client-0002")
    full = run.freeze()
    own = full.uploads
    for uploads in (
        own[:1], own[:2], own[::-1], (own[0],) * 3, (*own, ("client-0003", bytes(32))),
        (*own[:2], (own[2][0], bytes(32))), (),
    ):  # fmt: skip
        bad = replace(full, uploads=uploads)
        with pytest.raises(Rejected):
            committee.respond(run.holders[0], bad, run.signature(bad))
    other = replace(full, terms_digest=bytes(32))
    with pytest.raises(Rejected, match="other terms"):
        committee.respond(run.holders[0], other, run.signature(other))
    with pytest.raises(Rejected, match="signature"):
        committee.respond(run.holders[0], full, sealing.sign(key_for("client-0000"), full.message()))
    committee.respond(run.holders[0], full, run.signature(full))


def test_a_share_after_the_answer_is_stale():
    run = Round.of(terms_for(3, 10), values_for(1, 3, 10))
    run.upload("client-0000", "client-0001")
    run.freeze()
    run.ask()
    with pytest.raises(Stale):
        run.deliver("client-0002")


def test_the_server_freezes_once_and_not_below_the_fewest_survivors():
    run = Round.of(terms_for(3, 10), values_for(1, 3, 10))
    run.upload("client-0000")
    with pytest.raises(Rejected, match="the terms open 2"):
        run.freeze()
    with pytest.raises(Rejected, match="not frozen"):
        run.finalise()
    run.upload("client-0001")
    assert run.freeze() is run.freeze()


def test_the_server_takes_one_answer_a_holder_for_its_own_survivor_set():
    run = Round.of(terms_for(3, 10), values_for(1, 3, 10))
    run.upload(*run.terms.cohort)
    run.freeze()
    run.ask(0)
    answer = run.holders[0].answer
    for bad in (
        lie(0)(answer), replace(answer, survivors_digest=bytes(32)), replace(answer, holder=9),
        replace(answer, holder=1, values=answer.values[:-1]), replace(answer, holder=1, values=answer.values | np.uint32(2**31)),
    ):  # fmt: skip
        with pytest.raises(Rejected):
            server.accept(run.session, bad)
    with pytest.raises(Stale):
        server.accept(run.session, answer)


def test_answers_survive_their_bytes():
    run = Round.of(terms_for(3, 10), values_for(1, 3, 10))
    run.upload(*run.terms.cohort)
    run.freeze()
    run.ask(1)
    answer = run.holders[1].answer
    back = messages.answer_from_bytes(answer.to_bytes(), len(answer.values))
    assert (back.holder, back.survivors_digest) == (1, answer.survivors_digest)
    assert (back.values == answer.values).all()
    with pytest.raises(Rejected):
        messages.answer_from_bytes(answer.to_bytes()[:-4], len(answer.values))


@pytest.mark.parametrize("value", [0, 2**15 - 1, -(2**15)])
def test_what_the_server_holds_before_release_looks_uniform(value):
    """Chi-squared over 256 bins, and over pairs, of each ciphertext, their sum and a difference."""
    seed = token_hex(16)
    print("seed", seed)
    terms = terms_for(3, 60_000)
    run = Round.of(terms, np.full((3, 60_000), value, np.int32), seed=seed)
    for name in terms.cohort:
        run.receive(name)
    held = [messages.ciphertext_from_bytes(c.upload.ciphertext, terms) for c in run.clients.values()]
    held.append(run.total)
    for words in [*held, (held[0].astype(np.int64) - held[1]) % Q]:
        counts = np.histogram(words, bins=256, range=(0, Q))[0]
        expected = len(words) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 390  # 255 degrees of freedom: 1 in 10 million
        pairs = np.histogram2d(words[:-1:2], words[1::2], bins=16, range=[[0, Q], [0, Q]])[0]
        expected = pairs.sum() / 256
        assert ((pairs - expected) ** 2 / expected).sum() < 390


def test_memory_of_the_server_does_not_grow_with_the_ciphertexts():
    run = Round.of(terms_for(5, 10_000), values_for(1, 5, 10_000))
    run.upload(*run.terms.cohort)
    run.freeze()
    run.ask()
    assert run.total.nbytes == 4 * run.terms.length
    assert all(array.nbytes == 4 * run.terms.scheme.blocks(2048) for array in run.session.answers.values())
    assert all(len(digest) == 32 for digest in run.session.uploads.values())


def transcript():
    """What passes between the parties in one round of three clients and four holders, as hashes and values."""
    terms = terms_for(3, 6)
    values = np.array([[1, -1, 0, 2**15 - 1, -(2**15), 5], [10, 20, 30, 40, 50, 60], [7] * 6], np.int32)
    run = Round.of(terms, values, seed="golden")
    run.upload(*terms.cohort)
    survivors = run.freeze()
    run.ask(0, 2, 3)
    aggregate = run.finalise()

    def sha256(content):
        return hashlib.sha256(content).hexdigest()

    return {
        "terms_digest": terms.digest.hex(),
        "public_sha256": sha256(public_polynomials(terms).astype("<u4").tobytes()),
        "clients": {
            name: {
                "ciphertext": client.upload.ciphertext.hex(),
                "shares_root": client.upload.shares_root.hex(),
                "signature": client.upload.signature.hex(),
                "shares_sha256": [sha256(content) for content in client.shares],
            }
            for name, client in run.clients.items()
        },
        "survivors_message": survivors.message().hex(),
        "survivors_signature": run.signature(survivors).hex(),
        "answers_sha256": {
            str(holder.index): sha256(holder.answer.to_bytes()) for holder in run.holders if holder.answer
        },
        "total": run.total.tolist(),
        "values": aggregate.values.tolist(),
    }


def test_a_whole_round_is_known():
    assert transcript() == json.loads(GOLDEN.read_text())
