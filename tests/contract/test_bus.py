"""One contract for every bus: in process, in process with a journal, and RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from shared.adapters import backoff
from shared.adapters.in_process import open_in_process
from shared.adapters.rabbitmq import open_rabbitmq
from shared.errors import Unroutable
from shared.events import ClientSeen, JobCancelled, JobClosed, JobEnded, UpdateSubmitted
from shared.events.base import Channel, Envelope, Event
from shared.ports import Bus, Delivery, Queue, QueueKind

PATIENCE_S = 20
Open = Callable[[], Awaitable[Bus]]
JOBS = Queue("jobs", ((Channel.SERVICES, "job.cancelled.v1"),))


@pytest.fixture(params=["memory", "journal", pytest.param("rabbitmq", marks=pytest.mark.servers)])
async def open_bus(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[Open]:
    """Opens the bus, again after a close, with what an earlier one was trusted with."""
    url = request.getfixturevalue("amqp_url") if request.param == "rabbitmq" else ""
    opened: list[Bus] = []

    async def open_() -> Bus:
        if request.param == "rabbitmq":
            bus: Bus = await open_rabbitmq(url)
        else:
            bus = await open_in_process(tmp_path / "bus.sqlite" if request.param == "journal" else None)
        opened.append(bus)
        return bus

    yield open_
    for bus in opened:
        await bus.close()


@pytest.fixture
async def bus(open_bus: Open) -> Bus:
    return await open_bus()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty attempts in a second instead of minutes."""
    monkeypatch.setattr(backoff, "LONGEST_RETRY_S", 0.02)


def cancelled(job_id: str = "j1", **fields: str) -> Envelope:
    return Envelope.wrap(JobCancelled(job_id=job_id), **fields)


@dataclass
class Receiver:
    """Collects deliveries; `answer` gives the verdict, or nobody does."""

    answer: Callable[[Delivery], Awaitable[None]] | None = None
    deliveries: asyncio.Queue[Delivery] = field(default_factory=asyncio.Queue)

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.put_nowait(delivery)
        if self.answer is not None:
            await self.answer(delivery)

    async def next(self) -> Delivery:
        async with asyncio.timeout(PATIENCE_S):
            return await self.deliveries.get()

    def taken(self) -> int:
        return self.deliveries.qsize()


async def ack(delivery: Delivery) -> None:
    await delivery.ack()


async def dead(bus: Bus, count: int = 1) -> list[tuple[Envelope | None, str]]:
    """The dead letters, once there are `count`."""
    async with asyncio.timeout(PATIENCE_S):
        while len(letters := list(await bus.dead_letters())) < count:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.05)
    return letters


async def nothing_left(bus: Bus, queue: Queue) -> None:
    """A marker published now is the next and only message of `queue`."""
    receiver = Receiver(ack)
    subscription = await bus.subscribe(queue, receiver)
    marker = cancelled("marker")
    await bus.publish(marker)
    assert (await receiver.next()).envelope.event_id == marker.event_id
    assert receiver.taken() == 0
    await subscription.cancel()


async def test_an_envelope_arrives_as_it_was_sent(bus: Bus) -> None:
    receiver = Receiver(ack)
    await bus.subscribe(JOBS, receiver)
    sent = cancelled(
        correlation_id="j1-r1",
        causation_id="cause",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        producer="00-" + "a" * 32 + "-" + "c" * 16 + "-01",
    )
    await bus.publish(sent)
    delivery = await receiver.next()
    assert delivery.envelope == sent
    assert delivery.attempt == 1
    assert delivery.envelope.open() == JobCancelled(job_id="j1")


@pytest.mark.parametrize(
    ("event", "binding", "arrives"),
    [
        (JobCancelled(job_id="j"), (Channel.SERVICES, "job.cancelled.v1"), True),
        (JobCancelled(job_id="j"), (Channel.SERVICES, "job.*.v1"), True),
        (JobCancelled(job_id="j"), (Channel.SERVICES, "#"), True),
        (JobCancelled(job_id="j"), (Channel.UP, "#"), False),
        (JobCancelled(job_id="j"), (Channel.SERVICES, "job.*"), False),
        (JobClosed(client_id="a", job_id="j", outcome="x"), (Channel.DOWN, "job.closed.v1.a"), True),
        (JobClosed(client_id="a", job_id="j", outcome="x"), (Channel.DOWN, "job.closed.v1.b"), False),
        (ClientSeen(client_id="a"), (Channel.UP, "client.*.client.seen.v1"), True),
        (ClientSeen(client_id="a"), (Channel.UP, "client.b.client.seen.v1"), False),
    ],
)
async def test_topics_route(bus: Bus, event: Event, binding: tuple[Channel, str], arrives: bool) -> None:
    receiver, all_of = Receiver(ack), Receiver(ack)
    await bus.subscribe(Queue("narrow", (binding,)), receiver)
    await bus.subscribe(Queue("wide", tuple((channel, "#") for channel in Channel)), all_of)
    await bus.publish(Envelope.wrap(event))
    assert (await all_of.next()).envelope.open() == event
    if arrives:
        assert (await receiver.next()).envelope.open() == event
    else:
        await bus.declare(Queue("narrow", (binding, (Channel.SERVICES, "job.ended.v1"))))
        marker = cancelled("marker")
        await bus.declare(Queue("narrow", (binding, (Channel.SERVICES, marker.routing_key))))
        await bus.publish(marker)
        assert (await receiver.next()).envelope == marker


async def test_every_queue_gets_a_copy_and_every_message_once(bus: Bus) -> None:
    first, second = Receiver(ack), Receiver(ack)
    await bus.subscribe(Queue("one", JOBS.bindings), first)
    await bus.subscribe(Queue("two", JOBS.bindings), second)
    sent = [cancelled(f"j{n}") for n in range(20)]
    for envelope in sent:
        await bus.publish(envelope)
    for receiver in (first, second):
        got = [(await receiver.next()).envelope.event_id for _ in sent]
        assert sorted(got) == sorted(e.event_id for e in sent)


async def test_a_mandatory_event_without_a_queue_is_unroutable(bus: Bus) -> None:
    await bus.declare(Queue("other", ((Channel.SERVICES, "job.accepted.v1"),)))
    with pytest.raises(Unroutable):
        await bus.publish(cancelled())


async def test_a_notice_without_a_queue_is_dropped(bus: Bus) -> None:
    await bus.declare(JOBS)
    await bus.publish(Envelope.wrap(ClientSeen(client_id="a")))


async def test_concurrent_unroutable_messages_do_not_spoil_routable_ones(bus: Bus) -> None:
    receiver = Receiver(ack)
    await bus.subscribe(JOBS, receiver)
    good = [cancelled(f"j{n}") for n in range(50)]
    bad = [Envelope.wrap(JobClosed(client_id="nobody", job_id="j", outcome="x")) for _ in range(50)]
    mixed = [envelope for pair in zip(good, bad, strict=True) for envelope in pair]
    outcomes = await asyncio.gather(*(bus.publish(e) for e in mixed), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[::2]] == [type(None)] * 50
    assert [type(outcome) for outcome in outcomes[1::2]] == [Unroutable] * 50
    assert {(await receiver.next()).envelope.event_id for _ in good} == {e.event_id for e in good}


async def test_messages_wait_for_a_consumer(bus: Bus) -> None:
    await bus.declare(JOBS)
    await bus.publish(cancelled())
    receiver = Receiver(ack)
    await bus.subscribe(JOBS, receiver)
    assert (await receiver.next()).attempt == 1


async def test_what_is_acknowledged_does_not_come_back(bus: Bus) -> None:
    receiver = Receiver(ack)
    subscription = await bus.subscribe(JOBS, receiver)
    await bus.publish(cancelled())
    await receiver.next()
    await subscription.cancel()
    await nothing_left(bus, JOBS)


async def test_what_is_unanswered_at_a_cancel_is_delivered_again(bus: Bus) -> None:
    receiver = Receiver()
    subscription = await bus.subscribe(JOBS, receiver)
    sent = cancelled()
    await bus.publish(sent)
    assert (await receiver.next()).envelope == sent
    await subscription.cancel()
    second = Receiver(ack)
    again = await bus.subscribe(JOBS, second)
    delivery = await second.next()
    assert delivery.envelope == sent
    assert delivery.attempt == 2
    await again.cancel()
    await nothing_left(bus, JOBS)


async def test_a_pause_keeps_what_is_in_flight(bus: Bus) -> None:
    receiver = Receiver()
    subscription = await bus.subscribe(JOBS, receiver)
    await bus.publish(cancelled("j1"))
    held = await receiver.next()
    await subscription.pause()
    later = cancelled("j2")
    await bus.publish(later)
    await held.ack()
    await subscription.cancel()
    second = Receiver(ack)
    await bus.subscribe(JOBS, second)
    delivery = await second.next()
    assert delivery.envelope == later
    assert receiver.taken() == 0
    assert second.taken() == 0


@pytest.mark.parametrize("kind", QueueKind)
async def test_a_retry_comes_back_whole_with_the_next_attempt(bus: Bus, kind: QueueKind) -> None:
    async def third_time_lucky(delivery: Delivery) -> None:
        await (delivery.ack() if delivery.attempt == 3 else delivery.retry("not yet"))

    receiver = Receiver(third_time_lucky)
    queue = Queue("q", JOBS.bindings, kind=kind)
    subscription = await bus.subscribe(queue, receiver)
    sent = cancelled(correlation_id="r1")
    await bus.publish(sent)
    got = [await receiver.next() for _ in range(3)]
    assert [delivery.attempt for delivery in got] == [1, 2, 3]
    assert all(delivery.envelope == sent for delivery in got)
    await subscription.cancel()
    await nothing_left(bus, queue)


async def test_a_retry_goes_to_its_own_queue_alone(bus: Bus) -> None:
    async def once(delivery: Delivery) -> None:
        await (delivery.ack() if delivery.attempt > 1 else delivery.retry("not yet"))

    retrying, other = Receiver(once), Receiver(ack)
    await bus.subscribe(Queue("one", JOBS.bindings), retrying)
    await bus.subscribe(Queue("two", JOBS.bindings), other)
    await bus.publish(cancelled())
    assert [(await retrying.next()).attempt for _ in range(2)] == [1, 2]
    assert (await other.next()).attempt == 1
    assert other.taken() == 0


@pytest.mark.parametrize("kind", QueueKind)
@pytest.mark.usefixtures("quick_retries")
async def test_the_delivery_limit_ends_in_a_dead_letter_with_the_reason(bus: Bus, kind: QueueKind) -> None:
    async def never(delivery: Delivery) -> None:
        await delivery.retry("the dog ate it")

    receiver = Receiver(never)
    await bus.subscribe(Queue("q", JOBS.bindings, kind=kind), receiver)
    sent = cancelled()
    await bus.publish(sent)
    [(envelope, reason)] = await dead(bus)
    assert envelope == sent
    assert "the dog ate it" in reason
    assert receiver.taken() == backoff.DELIVERY_LIMIT


@pytest.mark.parametrize("kind", QueueKind)
async def test_a_dead_letter_keeps_the_message_and_the_reason(bus: Bus, kind: QueueKind) -> None:
    async def refuse(delivery: Delivery) -> None:
        await delivery.dead_letter("cannot ever work")

    receiver = Receiver(refuse)
    queue = Queue("q", JOBS.bindings, kind=kind)
    subscription = await bus.subscribe(queue, receiver)
    sent = cancelled()
    await bus.publish(sent)
    await receiver.next()
    assert await dead(bus) == [(sent, "cannot ever work")]
    assert await dead(bus) == [(sent, "cannot ever work")], "looking does not remove"
    await subscription.cancel()
    await nothing_left(bus, queue)


async def test_a_receiver_that_raises_is_tried_again(bus: Bus) -> None:
    async def fail_once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise RuntimeError("a defect")
        await delivery.ack()

    receiver = Receiver(fail_once)
    await bus.subscribe(JOBS, receiver)
    await bus.publish(cancelled())
    assert [(await receiver.next()).attempt for _ in range(2)] == [1, 2]


async def test_only_the_first_verdict_counts(bus: Bus) -> None:
    async def undecided(delivery: Delivery) -> None:
        await delivery.ack()
        await delivery.retry("changed my mind")
        await delivery.dead_letter("and again")

    receiver = Receiver(undecided)
    subscription = await bus.subscribe(JOBS, receiver)
    await bus.publish(cancelled())
    await receiver.next()
    await subscription.cancel()
    await nothing_left(bus, JOBS)
    assert list(await bus.dead_letters()) == []


async def test_no_more_than_prefetch_are_in_flight(bus: Bus) -> None:
    receiver = Receiver()
    queue = Queue("q", JOBS.bindings, prefetch=2)
    subscription = await bus.subscribe(queue, receiver)
    for n in range(5):
        await bus.publish(cancelled(f"j{n}"))
    first = [await receiver.next() for _ in range(2)]
    for _ in range(3):  # each acknowledgement lets exactly one more in
        assert receiver.taken() == 0
        await first.pop().ack()
        first.append(await receiver.next())
    await subscription.cancel()


async def test_a_single_active_consumer_gets_everything_until_it_leaves(bus: Bus) -> None:
    queue = Queue("q", JOBS.bindings, single_active=True)
    first, second = Receiver(ack), Receiver(ack)
    leader = await bus.subscribe(queue, first)
    await bus.subscribe(queue, second)
    for n in range(10):
        await bus.publish(cancelled(f"j{n}"))
    for _ in range(10):
        await first.next()
    assert second.taken() == 0
    await leader.cancel()
    await bus.publish(cancelled("next"))
    assert (await second.next()).envelope.open() == JobCancelled(job_id="next")


async def test_replicas_share_a_queue(bus: Bus) -> None:
    replicas = [Receiver(), Receiver()]
    queue = Queue("q", JOBS.bindings, prefetch=5)
    for replica in replicas:
        await bus.subscribe(queue, replica)
    sent = [cancelled(f"j{n}") for n in range(10)]
    for envelope in sent:
        await bus.publish(envelope)
    got = [(await replica.next()).envelope.event_id for replica in replicas for _ in range(5)]
    assert sorted(got) == sorted(envelope.event_id for envelope in sent)


async def test_a_body_of_a_mebibyte_arrives_unchanged(bus: Bus) -> None:
    receiver = Receiver(ack)
    await bus.subscribe(Queue("uploads", ((Channel.UP, UpdateSubmitted.binding()),)), receiver)
    event = UpdateSubmitted(
        client_id="a",
        job_id="j",
        round_id="j-r1",
        group_id="j-r1-g1",
        index=0,
        count=1,
        upload_sha256="0" * 64,
        payload=bytes(range(256)) * 4096,
        signature=b"s" * 64,
    )
    await bus.publish(Envelope.wrap(event))
    assert (await receiver.next()).envelope.open() == event


async def test_declaring_again_adds_bindings(bus: Bus) -> None:
    receiver = Receiver(ack)
    await bus.subscribe(JOBS, receiver)
    await bus.declare(Queue("jobs", (*JOBS.bindings, (Channel.SERVICES, "job.ended.v1"))))
    await bus.publish(cancelled())
    await receiver.next()
    ended = JobEnded(
        job_id="j",
        outcome="failed",
        reason="",
        rounds_completed=0,
        adapter=None,
        layout=None,
        ended_at="2026-01-01T00:00:00Z",
    )
    await bus.publish(Envelope.wrap(ended))
    assert (await receiver.next()).envelope.open() == ended


async def test_a_closed_bus_is_not_healthy(bus: Bus) -> None:
    assert bus.healthy()
    await bus.close()
    assert not bus.healthy()


async def test_what_was_published_survives_the_process(open_bus: Open, request) -> None:
    if "memory" in request.node.callspec.params.values():
        pytest.skip("keeps nothing, by design")
    first = await open_bus()
    receiver = Receiver()
    await first.subscribe(JOBS, receiver)
    sent = cancelled()
    await first.publish(sent)
    await receiver.next()
    await first.close()
    second = await open_bus()
    again = Receiver(ack)
    await second.subscribe(JOBS, again)
    delivery = await again.next()
    assert delivery.envelope == sent
    assert delivery.attempt == 2
