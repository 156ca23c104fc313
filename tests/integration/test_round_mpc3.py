"""Jobs whose updates are shared among three parties: real workers, real links, only the training scripted."""

import asyncio
import json
import ssl
import threading
from contextlib import aclosing

import httpx
import numpy as np
import pytest

from fedlora import embedded
from services.client.__main__ import build as build_worker
from services.client.sessions import mpc3
from services.client.settings import ClientSettings
from services.secure_aggregation.parties import building
from services.secure_aggregation.parties.certificates import make_identities
from services.secure_aggregation.parties.link import Links
from shared.adapters.infrastructure import Endpoints
from shared.errors import Rejected, Unavailable
from shared.events import JobEnded, RoundAborted, RoundCompleted
from tests.integration.three_parties import NOW, SERVICES, three_parties, until
from tests.integration.worker_federation import KnownTrainer, adapter_of, job, known_mean

NAMES = ("alice", "bob", "gamma")
STEP = 1e-4  # what 16 bits keep of a coordinate of this job, and more


async def test_two_rounds_move_the_adapter_by_the_mean_of_all_updates(tmp_path):
    async with three_parties(tmp_path, NAMES) as (fed, _, _):
        await fed.submit(job("mpc3"))
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        final = await adapter_of(fed, ended)
        await until(lambda: not any(fed.services[name].context.places for name in SERVICES[1:]))
    assert np.abs(final - known_mean(NAMES, 1, 300) - known_mean(NAMES, 2, 300)).max() < STEP
    assert [each.contributors for each in fed.of(RoundCompleted)] == [NAMES] * 2


async def test_no_party_alone_is_sent_what_opens_an_update(tmp_path, monkeypatch):
    sent = []
    encrypt = mpc3.Shared.encrypt

    def remembered(self, state, update, random_bytes):
        encoded = encrypt(self, state, update, random_bytes)
        sent.append((encoded.content, *encoded.others))
        return encoded

    monkeypatch.setattr(mpc3.Shared, "encrypt", remembered)
    async with three_parties(tmp_path, NAMES) as (fed, _, _):
        await fed.submit(job("mpc3", rounds={"count": 1}))
        await fed.until(JobEnded)
    assert len(sent) == 3
    for payloads in sent:  # party 0 holds two seeds; the others one seed and one share in 8 bytes a value
        assert len(payloads[0]) < 300
        assert min(len(payload) for payload in payloads[1:]) > 8 * 300


async def test_a_client_whose_shares_do_not_fit_is_left_out_and_named(tmp_path, monkeypatch):
    encrypt = mpc3.Shared.encrypt

    def lying(self, state, update, random_bytes):
        encoded = encrypt(self, state, update, random_bytes)
        if self.client_id == "gamma":
            first, second = encoded.others
            encoded = mpc3.Encoded(encoded.content, others=(first, second[:-1] + bytes([second[-1] ^ 1])))
        return encoded

    monkeypatch.setattr(mpc3.Shared, "encrypt", lying)
    async with three_parties(tmp_path, NAMES) as (fed, _, _):
        await fed.submit(job("mpc3", rounds={"count": 1}))
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        final = await adapter_of(fed, ended)
    (completed,) = fed.of(RoundCompleted)
    assert completed.contributors == ("alice", "bob")
    ((name, reason),) = [(each.client_id, each.reason) for each in completed.left_out]
    assert name == "gamma"
    assert "party 2" in reason
    assert "not the one that it signed" in reason
    assert np.abs(final - known_mean(("alice", "bob"), 1, 300)).max() < STEP


@pytest.mark.parametrize("party", [0, 1, 2])
async def test_a_party_that_restarts_while_uploads_are_held_still_opens_the_sum(tmp_path, party):
    await restarting(tmp_path, party)


async def test_a_party_restarts_on_rabbitmq(tmp_path, amqp_url):
    await restarting(tmp_path, 1, bus_url=amqp_url, dimension=300_000)


async def restarting(folder, party, *, dimension=300, **options):
    gate = threading.Event()
    async with three_parties(folder, NAMES, dimension=dimension, **options) as (fed, workers, _):
        workers.trainers["gamma"].gate = gate
        await fed.submit(job("mpc3", rounds={"count": 1}))
        parties = [fed.services[name].context for name in SERVICES[1:]]
        await until(lambda: all(len(clients_at(each)) == 2 for each in parties))
        await fed.restart(SERVICES[party])
        gate.set()
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        final = await adapter_of(fed, ended)
    assert np.abs(final - known_mean(NAMES, 1, dimension)).max() < STEP
    assert fed.of(RoundCompleted)[0].contributors == NAMES


def clients_at(custody):
    return [client for place in custody.places.values() for client in place.side.clients]


async def test_a_round_without_one_party_fails_at_its_deadline_with_the_reason(tmp_path):
    async with three_parties(tmp_path, NAMES, away=(2,)) as (fed, _, _):
        await fed.submit(job("mpc3", rounds={"count": 1, "deadline_s": 1.0, "retries": 0}))
        (ended,) = await fed.until(JobEnded)
        (aborted,) = await fed.until(RoundAborted)
    assert ended.outcome == "failed"
    assert "party 2 is away" in aborted.reason


async def test_a_party_that_falls_silent_after_the_uploads_fails_the_round_when_the_stage_is_over(
    tmp_path, monkeypatch
):
    answer = building.serve

    async def silent(custody, sender, kind, body):
        if custody.index == 2 and kind == "agree":
            raise Unavailable("under repair")
        return await answer(custody, sender, kind, body)

    monkeypatch.setattr(building, "serve", silent)
    async with three_parties(tmp_path, NAMES) as (fed, _, _):
        await fed.submit(job("mpc3", rounds={"count": 1, "retries": 0}, aggregation={"stage_s": 1.0}))
        (ended,) = await fed.until(JobEnded)
        (aborted,) = await fed.until(RoundAborted)
        await until(lambda: not any(fed.services[name].context.places for name in SERVICES[1:]))
    assert ended.outcome == "failed"
    assert "did not finish in time: party 2: under repair" in aborted.reason


async def test_the_link_answers_nobody_but_the_other_two_parties(tmp_path):
    async with three_parties(tmp_path, NAMES) as (_, _, settings):
        address = {1: ("127.0.0.1", int(settings[1].party_listen.rpartition(":")[2]))}
        own = settings[0].identity()
        async with aclosing(Links(own, address)) as links:
            assert len(await links.ask(1, "keys")) == 2
        async with aclosing(Links(settings[2].identity(), address)) as links:
            with pytest.raises(Rejected, match="no request"):
                await links.ask(1, "over", {"session": []})
        files = {"certificate": tmp_path / "tls" / "visitor.pem", "key": tmp_path / "tls" / "visitor.key"}
        with pytest.raises(Unavailable, match="gave no answer"):  # of the same authority, no party's name
            await Links(own._replace(**files), address).ask(1, "keys")
        with pytest.raises(Unavailable, match="mismatch"):  # who answers is party 1, not party 2
            await Links(own, {2: address[1]}).ask(2, "keys")
        with pytest.raises(Unavailable):  # its own name, but a certificate of another authority
            await Links(make_identities(tmp_path / "elsewhere", NOW)[0], address).ask(1, "keys")
        old = Links(own, address)
        old._context.minimum_version = ssl.TLSVersion.TLSv1_2
        old._context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(Unavailable):
            await old.ask(1, "keys")
        stranger = make_identities(tmp_path / "stranger", NOW, ("party-9",))[0]
        with pytest.raises(Unavailable):
            await Links(stranger._replace(authority=own.authority), address).ask(1, "keys")


async def test_an_embedded_federation_runs_a_job_with_three_parties_of_its_own(tmp_path, monkeypatch):
    async def scripted(name, data, infrastructure, endpoints):
        settings = ClientSettings(client_id=name, home=endpoints.folder, data=data)
        return await build_worker(infrastructure, settings, KnownTrainer(name, 300))

    monkeypatch.setattr(embedded, "build_worker", scripted)
    data = tmp_path / "data.txt"
    data.write_text("a record\n")
    composition = embedded.Composition(
        Endpoints(home=tmp_path, telemetry="off"), workers=dict.fromkeys(NAMES, data)
    )
    specification = json.dumps(job("mpc3", rounds={"count": 1, "min_clients": 3}).model_dump(mode="json"))
    async with (
        embedded.federation(composition) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
    ):
        answer = await http.post("/jobs", content=specification)
        assert answer.status_code == 201, answer.text
        address = answer.headers["location"]
        shown = (await http.get(address)).json()
        async with asyncio.timeout(60):
            while shown["status"] not in ("completed", "failed"):
                await asyncio.sleep(0.05)
                shown = (await http.get(address)).json()
    assert shown["status"] == "completed", shown
