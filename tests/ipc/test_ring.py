"""Rings in one process: examples, and a model that hypothesis drives.

The counters start at values where narrower arithmetic would break: 0, just below 2**32,
just below the sign bit of 64, and near the end of the count.
"""

import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import integers, sampled_from

from pipeline.ipc import ring as ring_module
from pipeline.ipc.ring import HEADER_BYTES, Consumer, Producer, SlotConsumer, SlotProducer, ring_bytes

CAPACITY = 8
STARTS = (0, 1, 2**32 - 3, 2**63 - 3, 2**64 - 100_000)


def memory(capacity: int = CAPACITY, entry_bytes: int = 64, start: int = 0) -> memoryview:
    buf = memoryview(bytearray(ring_bytes(capacity, entry_bytes)))
    struct.pack_into("=Q", buf, 0, start)
    struct.pack_into("=Q", buf, 64, start)
    return buf


def pair(start: int = 0, capacity: int = CAPACITY) -> tuple[Producer, Consumer]:
    buf = memory(capacity, start=start)
    return Producer(buf, capacity), Consumer(buf, capacity)


def record(number: int) -> bytes:
    return struct.pack("<Q", number) * 8


def take(consumer: Consumer, limit: int = 256) -> list[bytes]:
    burst = consumer.peek(limit)
    records = [bytes(burst[i : i + 64]) for i in range(0, len(burst), 64)]
    consumer.release(len(records))
    return records


def test_nothing_is_seen_before_publish() -> None:
    producer, consumer = pair()
    producer.push(record(1))
    assert not consumer.pending()
    assert len(consumer.peek()) == 0
    assert producer.publish()
    assert consumer.pending()
    assert take(consumer) == [record(1)]
    assert not consumer.pending()


def test_publish_without_a_backlog_publishes_nothing() -> None:
    producer, _ = pair()
    assert not producer.publish()


@pytest.mark.parametrize("start", STARTS)
def test_a_burst_over_the_ring_end_comes_out_in_order_in_two_peeks(start: int) -> None:
    producer, consumer = pair(start)
    for number in range(CAPACITY):
        producer.push(record(number))
        producer.publish()
        assert take(consumer) == [record(number)]
    for number in range(5):
        producer.push(record(number))
    producer.publish()
    assert take(consumer) + take(consumer) == [record(number) for number in range(5)]
    assert producer.prod_idx == start + CAPACITY + 5


def test_a_reader_without_an_end_sees_how_many_entries_have_passed_and_how_many_wait() -> None:
    buf = memoryview(bytearray(ring_bytes(8, 64)))
    producer, consumer = Producer(buf, 8, 64), Consumer(buf, 8, 64)
    for number in range(15):
        producer.push(record(number))
        producer.publish()
        take(consumer)
    producer.push(record(15))
    assert (ring_module.passed(buf), ring_module.depth(buf, 8)) == (15, 0)
    producer.publish()
    assert (ring_module.passed(buf), ring_module.depth(buf, 8)) == (16, 1)


def test_a_full_ring_keeps_the_rest_in_the_backlog_and_loses_nothing() -> None:
    producer, consumer = pair()
    for number in range(CAPACITY + 3):
        producer.push(record(number))
    assert producer.publish()
    assert producer.backlog == 3
    assert producer.room() == -3
    assert not producer.publish()
    assert take(consumer, 2) == [record(0), record(1)]
    assert producer.publish()
    assert producer.backlog == 1
    take(consumer)
    producer.publish()
    assert take(consumer) + take(consumer) == [record(number) for number in range(8, CAPACITY + 3)]


def test_peek_again_without_release_gives_the_same_entries() -> None:
    producer, consumer = pair()
    producer.push(record(7))
    producer.publish()
    assert bytes(consumer.peek()) == bytes(consumer.peek()) == record(7)


def test_release_of_more_than_was_published_is_refused() -> None:
    producer, consumer = pair()
    producer.push(record(1))
    producer.publish()
    consumer.peek()
    with pytest.raises(ValueError, match="release of 2"):
        consumer.release(2)


def test_a_record_of_wrong_length_is_refused_and_not_published() -> None:
    producer, consumer = pair()
    producer.push(b"short")
    with pytest.raises(ValueError):
        producer.publish()
    assert not consumer.pending()


def test_completion_follows_the_consumers_release() -> None:
    producer, consumer = pair()
    producer.push(record(1))
    producer.push(record(2))
    idx = producer.push_idx()
    assert idx == 2
    producer.publish()
    consumer.peek()
    consumer.release(1)
    assert not producer.completed(idx)
    assert producer.completed(1)
    consumer.release(1)
    assert producer.completed(idx)


@pytest.mark.parametrize("capacity", [0, 3, -8, 12])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Producer(memoryview(bytearray(4096)), capacity)


def test_a_ring_larger_than_its_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Consumer(memoryview(bytearray(HEADER_BYTES + 64 * 8 - 1)), 8)


def test_a_side_made_later_starts_where_the_ring_stands() -> None:
    buf = memory()
    producer, consumer = Producer(buf, CAPACITY), Consumer(buf, CAPACITY)
    for number in range(3):
        producer.push(record(number))
    producer.publish()
    take(consumer, 2)
    assert Producer(buf, CAPACITY).room() == CAPACITY - 1
    assert take(Consumer(buf, CAPACITY)) == [record(2)]


def test_the_counters_lie_on_cache_lines_of_their_own() -> None:
    buf = memory()
    producer, consumer = Producer(buf, CAPACITY), Consumer(buf, CAPACITY)
    producer.push(record(0))
    producer.push(record(0))
    producer.publish()
    take(consumer, 1)
    assert struct.unpack_from("=Q", buf, 0) == (2,)
    assert struct.unpack_from("=Q", buf, 64) == (1,)


# --- a producer that waits for room or for completion ---------------------------------


def fill(producer: Producer, count: int) -> None:
    for number in range(count):
        producer.push(record(number))
    producer.publish()


def test_a_producer_with_plenty_of_room_asks_for_no_bell() -> None:
    producer, consumer = pair()
    fill(producer, 2)
    producer.room()
    assert not producer.arm()
    take(consumer)
    assert not consumer.wake_due()


def test_a_full_ring_wakes_its_producer_at_half_empty() -> None:
    producer, consumer = pair()
    fill(producer, CAPACITY)
    assert producer.room() == 0
    assert producer.arm()
    assert not producer.released()
    take(consumer, CAPACITY // 2 - 1)
    assert not consumer.wake_due()
    take(consumer, 1)
    assert consumer.wake_due()
    assert producer.released()
    assert not consumer.wake_due(), "looked at already, nothing was released since"


def test_a_backlog_alone_is_a_reason_to_be_woken() -> None:
    producer, consumer = pair()
    fill(producer, CAPACITY + 1)
    assert producer.arm()
    take(consumer)
    assert consumer.wake_due()


def test_a_backlog_that_was_not_published_keeps_a_producer_with_an_empty_ring_awake() -> None:
    producer, _ = pair()
    producer.push(record(1))
    assert producer.arm()
    assert producer.released()


def test_a_watched_completion_wakes_the_producer() -> None:
    producer, consumer = pair()
    fill(producer, 2)
    producer.watch(2)
    producer.watch(3)
    assert producer.arm()
    take(consumer, 1)
    assert not consumer.wake_due()
    take(consumer, 1)
    assert consumer.wake_due()


def test_an_awake_producer_is_not_rung_for() -> None:
    producer, consumer = pair()
    fill(producer, CAPACITY)
    producer.room()
    producer.arm()
    producer.disarm()
    take(consumer)
    assert not consumer.wake_due()


def test_a_machine_without_store_order_gets_a_fence_around_each_counter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fences = []
    monkeypatch.setattr(ring_module, "ORDERED", False)
    monkeypatch.setattr(ring_module, "full_fence", lambda: fences.append(1))
    producer, consumer = pair()
    producer.push(record(1))
    producer.publish()
    assert len(fences) == 1, "entries before prod_idx"
    consumer.peek()
    assert len(fences) == 2, "prod_idx before entries"
    consumer.release(1)
    assert len(fences) == 3, "reads before cons_idx"


def test_an_entry_left_in_the_ring_is_fresh_once() -> None:
    producer, consumer = pair()
    assert not consumer.fresh()
    fill(producer, 1)
    assert consumer.fresh()
    assert not consumer.fresh()
    assert consumer.pending()
    fill(producer, 1)
    assert consumer.fresh()
    take(consumer)
    assert not consumer.fresh()


# --- free rings -----------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_slot_numbers_come_out_in_order_over_the_ring_end(start: int) -> None:
    buf = memory(entry_bytes=8, start=start)
    producer, consumer = SlotProducer(buf, CAPACITY), SlotConsumer(buf, CAPACITY)
    sent, got = 0, []
    for burst in (3, 8, 1, 0, 20, 5):
        for _ in range(burst):
            producer.push(sent)
            sent += 1
        producer.publish()
        got += consumer.drain()
    while producer.publish():
        got += consumer.drain()
    assert got == list(range(sent))
    assert not consumer.pending()


def test_a_full_free_ring_keeps_the_rest() -> None:
    buf = memory(entry_bytes=8)
    producer, consumer = SlotProducer(buf, CAPACITY), SlotConsumer(buf, CAPACITY)
    for slot in range(10):
        producer.push(slot)
    producer.publish()
    assert producer.backlog == 2
    assert len(consumer) == CAPACITY
    assert producer.arm()
    assert consumer.drain() == list(range(8))
    assert consumer.wake_due()


@given(capacity=integers(0, 12).map(lambda n: 1 << n), entry=sampled_from([8, 64]))
def test_ring_bytes_is_enough_and_a_whole_number_of_cache_lines(capacity: int, entry: int) -> None:
    size = ring_bytes(capacity, entry)
    assert size % 64 == 0
    Producer(memoryview(bytearray(size)), capacity, entry)


# --- the model ------------------------------------------------------------------------


class RingModel(RuleBasedStateMachine):
    """Ring against two deques: what waits with the producer, what the consumer can see."""

    @initialize(start=sampled_from(STARTS), capacity=sampled_from([1, 2, 8]))
    def begin(self, start: int, capacity: int) -> None:
        self.capacity, self.next = capacity, 0
        self.producer, self.consumer = pair(start, capacity)
        self.start = start
        self.backlog: deque[bytes] = deque()
        self.ring: deque[bytes] = deque()
        self.released = 0
        self.peeked = 0

    @rule(count=integers(0, 20))
    def push(self, count: int) -> None:
        for _ in range(count):
            self.producer.push(record(self.next))
            self.backlog.append(record(self.next))
            self.next += 1

    @rule()
    def publish(self) -> None:
        moved = min(len(self.backlog), self.capacity - len(self.ring))
        assert self.producer.publish() == (moved > 0)
        for _ in range(moved):
            self.ring.append(self.backlog.popleft())

    @rule(limit=integers(1, 10))
    def peek(self, limit: int) -> None:
        burst = self.consumer.peek(limit)
        count = len(burst) // 64
        assert count <= limit
        assert (count > 0) == (len(self.ring) > 0)
        assert bytes(burst) == b"".join(list(self.ring)[:count])
        self.peeked = count

    @rule(share=integers(0, 100))
    def release(self, share: int) -> None:
        count = self.peeked * share // 100
        self.consumer.release(count)
        for _ in range(count):
            self.ring.popleft()
        self.released += count
        self.peeked -= count

    @invariant()
    def both_sides_agree_with_the_model(self) -> None:
        assert self.consumer.pending() == bool(self.ring)
        assert len(self.consumer) == len(self.ring)
        assert self.producer.backlog == len(self.backlog)
        room = self.capacity - len(self.ring) - len(self.backlog)
        assert self.producer.has_room() == (room > 0)
        assert self.producer.scarce is (room < self.capacity // 2)
        assert self.producer.room() == room
        assert self.producer.scarce is (room < self.capacity // 2)
        assert self.producer.cons_idx() == self.start + self.released
        assert self.producer.completed(self.start + self.released)
        assert not self.producer.completed(self.start + self.released + 1)
        assert self.producer.push_idx() == self.start + self.next


TestRingModel = RingModel.TestCase
TestRingModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
