"""What is yet to be written: bounded, repeated when there is no answer, and over when the store knows."""

from pipeline.engines.fleet.outbox import MAX_IDLE, MAX_WRITES, RETRY_S, Outbox


def test_a_key_is_written_until_the_store_knows() -> None:
    known: set[int] = set()
    outbox: Outbox[int, str] = Outbox(lambda key: None if key in known else f"write {key}")
    outbox.add([1])
    assert outbox.take(0.0) == [], "the store is not reached"
    assert outbox.deadline(0.0) == float("inf")
    outbox.go(online=True)
    assert outbox.deadline(0.0) == 0.0
    assert outbox.take(0.0) == ["write 1"]
    assert outbox.deadline(0.0) == RETRY_S
    assert outbox.take(RETRY_S - 0.1) == []
    assert outbox.take(RETRY_S) == ["write 1"]
    outbox.on_answer(1)
    assert outbox.take(RETRY_S) == ["write 1"], "the answer was another one"
    known.add(1)
    outbox.on_answer(1)
    assert 1 in outbox
    assert outbox.take(RETRY_S) == []
    assert 1 not in outbox


def test_a_new_session_begins_with_no_write_under_way_and_few_at_a_time() -> None:
    outbox: Outbox[int, int] = Outbox(lambda key: key)
    outbox.add(range(MAX_WRITES + 5))
    outbox.go(online=True)
    assert outbox.take(0.0) == list(range(MAX_WRITES))
    outbox.on_answer(3)
    assert outbox.take(0.0) == [3]
    outbox.go(online=False)
    assert outbox.take(1.0) == []
    outbox.go(online=True)
    assert outbox.take(1.0) == list(range(MAX_WRITES))


def test_keys_that_nobody_needs_are_forgotten_while_the_store_is_away() -> None:
    """A guest that changes its MAC address all day fills no memory."""
    outbox: Outbox[int, str] = Outbox(lambda key: None, lambda key: key < 3)
    for key in range(10 * MAX_IDLE):
        outbox.add([key])
    assert len(outbox) <= MAX_IDLE
    assert all(key in outbox for key in range(3))
    outbox.go(online=True)
    assert outbox.take(0.0) == []
    assert len(outbox) == 0


def test_keys_that_are_needed_all_stay() -> None:
    outbox: Outbox[int, int] = Outbox(lambda key: key, lambda key: True)
    for key in range(3 * MAX_IDLE):
        outbox.add([key])
    assert len(outbox) == 3 * MAX_IDLE


def test_writes_that_nobody_sent_do_not_stop_further_ones() -> None:
    """While a successor may take over, nothing is sent. The guests may be gone when there is none."""
    gone: set[int] = set()
    outbox: Outbox[int, int] = Outbox(lambda key: None if key in gone else key)
    outbox.go(online=True)
    outbox.add(range(MAX_WRITES))
    assert len(outbox.take(0.0)) == MAX_WRITES
    assert len(outbox.take(RETRY_S)) == MAX_WRITES, "all of them are repeated"
    gone.update(range(MAX_WRITES))
    assert outbox.take(2 * RETRY_S) == []
    outbox.add([MAX_WRITES])
    assert outbox.take(2 * RETRY_S) == [MAX_WRITES]
