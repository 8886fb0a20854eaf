"""What a pool does not do at each write of others, and what it does later for want of room."""

import pytest

from pipeline.engines.fleet.entries import RESERVED, Claim, Member, WriteClaim, WriteMember
from pipeline.engines.fleet.lease_pool import MAX_WRITES, LeasePool

TERM = 1000.0
GRACE = TERM / 4
RESERVE = 3
ADDRESSES = range(100, 120)
GUESTS = (b"\2\0\0\0\0\1", b"\2\0\0\0\0\2")


def test_a_host_does_not_search_a_full_pool_at_every_write_of_others() -> None:
    looks = 0

    def choose(count: int) -> int:
        nonlocal looks
        looks += count == len(ADDRESSES)
        return 0

    pool = LeasePool("here", ADDRESSES, choose, term=TERM, grace=GRACE, reserve=RESERVE)
    for number, addr in enumerate(ADDRESSES):
        pool.on_claim(addr, Claim("there", 1, GUESTS[0]), number + 1, 0.0)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    pool.on_member("here", beat.member, 100, 1.0)
    assert looks == 1
    for number, addr in enumerate(ADDRESSES):
        pool.on_claim(addr, Claim("there", 1, GUESTS[1]), number + 101, 2.0)
        pool.on_timer(2.0)
    assert (looks, pool.take_writes()) == (1, [])
    pool.on_claim(ADDRESSES[3], None, 200, 3.0)
    (claim,) = pool.take_writes()
    assert isinstance(claim, WriteClaim)
    assert claim.addr == ADDRESSES[3]
    pool.on_claim(ADDRESSES[3], Claim("there", 1, GUESTS[0]), 201, 4.0)
    assert pool.take_writes() == []
    pool.on_member("there", Member(1, 9, True), 202, 5.0)
    pool.on_timer(pool.deadline())
    assert len(pool.take_writes()) >= RESERVE, "the claims of a fenced host are free"


def test_writes_that_found_no_room_are_made_when_there_is_room() -> None:
    pool = LeasePool("here", range(400), lambda _: 0, term=TERM, grace=GRACE, reserve=MAX_WRITES + 8)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    pool.on_member("here", beat.member, 1, 0.1)
    writes = pool.take_writes()
    assert len(writes) == MAX_WRITES
    for revision, write in enumerate(writes, start=2):
        assert isinstance(write, WriteClaim)
        pool.on_claim(write.addr, write.claim, revision, 0.2)
    assert len(pool.take_writes()) == 8


@pytest.mark.parametrize("mac", [RESERVED, GUESTS[0]])
def test_an_address_that_is_not_of_the_pool_goes_to_nobody(mac: bytes) -> None:
    """Somebody has written a claim on it, or the pool was another one. It may be the gateway's address."""
    pool = LeasePool("here", ADDRESSES, lambda _: 0, term=TERM, grace=GRACE, reserve=RESERVE)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    foreign = ADDRESSES[0] - 1
    pool.on_claim(foreign, Claim("here", beat.member.epoch, mac), 1, 0.1)
    pool.on_member("here", beat.member, 2, 0.1)
    assert pool.reserve_size(0.2) == 0
    assert pool.grant(GUESTS[0], 0.2) is None
    for revision, write in enumerate(pool.take_writes(), start=3):
        assert isinstance(write, WriteClaim)
        pool.on_claim(write.addr, write.claim, revision, 0.3)
    grant = pool.grant(GUESTS[0], 0.4)
    assert grant is not None
    assert grant.addr in ADDRESSES
