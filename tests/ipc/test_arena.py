"""Slots and reference counts: examples, and a model that hypothesis drives."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import data, integers

from pipeline.ipc.arena import HEADROOM, SLOT_BYTES, Arena, Pool, SlotError
from pipeline.records.kinds import NO_SLOT


def test_slots_are_separate_pieces_of_the_segment() -> None:
    memory = bytearray(3 * SLOT_BYTES)
    arena = Arena(memoryview(memory), 3)
    for number, slot in enumerate(arena.slots):
        assert len(slot) == SLOT_BYTES
        slot[:] = bytes([number + 1]) * SLOT_BYTES
    assert memory == b"\1" * SLOT_BYTES + b"\2" * SLOT_BYTES + b"\3" * SLOT_BYTES


def test_a_slot_holds_headroom_and_64_kib_of_payload_in_whole_pages() -> None:
    assert SLOT_BYTES >= HEADROOM + 64 * 1024
    assert SLOT_BYTES % 4096 == 0
    assert HEADROOM % 64 == 0


def test_an_arena_larger_than_its_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="2 slots"):
        Arena(memoryview(bytearray(2 * SLOT_BYTES - 1)), 2)


def test_an_empty_pool_gives_no_slot() -> None:
    pool = Pool(5, 2)
    assert {pool.alloc(), pool.alloc()} == {5, 6}
    assert pool.alloc() == NO_SLOT
    assert pool.free_count == 0


def test_a_shared_slot_is_free_only_after_its_last_reference() -> None:
    pool = Pool(0, 1)
    slot = pool.alloc()
    pool.ref(slot, 3)
    for _ in range(3):
        pool.unref(slot)
    assert pool.alloc() == NO_SLOT
    pool.unref(slot)
    assert pool.alloc() == slot


@pytest.mark.parametrize("slot", [0, 3, 4, 7, 8, 1000, NO_SLOT])
def test_a_reference_that_is_not_out_cannot_come_home(slot: int) -> None:
    pool = Pool(4, 4)
    with pytest.raises(SlotError):
        pool.unref(slot)
    with pytest.raises(SlotError):
        pool.ref(slot)
    assert pool.audit() is None


def test_a_double_free_is_refused_and_changes_nothing() -> None:
    pool = Pool(0, 2)
    slot = pool.alloc()
    pool.unref(slot)
    with pytest.raises(SlotError, match="free"):
        pool.unref(slot)
    assert pool.free_count == 2
    assert pool.audit() is None


def test_audit_names_a_slot_that_is_free_twice() -> None:
    pool = Pool(0, 2)
    pool._free.append(1)
    assert "twice" in (pool.audit() or "")


def test_audit_names_a_slot_that_is_free_and_referenced() -> None:
    pool = Pool(0, 2)
    pool._refs[1] = 1
    assert "slot 1 is free with 1" in (pool.audit() or "")


def test_audit_names_a_total_that_is_wrong() -> None:
    pool = Pool(0, 2)
    pool.alloc()
    pool.refs_out = 2
    assert "2 in total" in (pool.audit() or "")


class PoolModel(RuleBasedStateMachine):
    """A pool beside a multiset of references."""

    FIRST, COUNT = 3, 5

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(self.FIRST, self.COUNT)
        self.held: Counter[int] = Counter()

    @rule()
    def alloc(self) -> None:
        slot = self.pool.alloc()
        if len(self.held) == self.COUNT:
            assert slot == NO_SLOT
        else:
            assert self.FIRST <= slot < self.FIRST + self.COUNT
            assert slot not in self.held
            self.held[slot] = 1

    @precondition(lambda self: self.held)
    @rule(choice=data(), n=integers(0, 600))
    def ref(self, choice: object, n: int) -> None:
        slot = self._choose(choice)
        self.pool.ref(slot, n)
        self.held[slot] += n

    @precondition(lambda self: self.held)
    @rule(choice=data())
    def unref(self, choice: object) -> None:
        slot = self._choose(choice)
        self.pool.unref(slot)
        self.held[slot] -= 1
        self.held = +self.held

    @rule(slot=integers(0, 10))
    def free_what_is_not_held(self, slot: int) -> None:
        if slot not in self.held:
            with pytest.raises(SlotError):
                self.pool.unref(slot)

    def _choose(self, choice: object) -> int:
        slots = sorted(self.held)
        return slots[choice.draw(integers(0, len(slots) - 1))]  # type: ignore[attr-defined]

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.free_count == self.COUNT - len(self.held)
        assert self.pool.refs_out == self.held.total()
        assert self.pool.audit() is None


TestPoolModel = PoolModel.TestCase
TestPoolModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
