"""What guests of this host have of the pool, and when it comes back."""

from pipeline.engines.fleet.entries import Member, WriteClaim, WriteMember
from pipeline.engines.fleet.grants import DECLINED_S, MARGIN_S, MAX_WAITING, WAIT_S, Grants
from pipeline.engines.fleet.lease_pool import LeasePool

ADDRESSES = range(100, 130)


class Rig:
    """A pool whose writes succeed when settle() is called."""

    def __init__(self) -> None:
        self.pool = LeasePool("here", ADDRESSES, lambda _: 0)
        self.grants = Grants(self.pool)
        self.revision = 0
        self.now = 0.0

    def settle(self) -> None:
        self.pool.on_timer(self.now)
        while writes := self.pool.take_writes():
            for write in writes:
                self.revision += 1
                if isinstance(write, WriteMember):
                    self.pool.on_member(write.host, write.member, self.revision, self.now)
                elif isinstance(write, WriteClaim):
                    self.pool.on_claim(write.addr, write.claim, self.revision, self.now)

    def ask(self, number: int, seconds: float = 60.0) -> int | None:
        """The address that the client gets at once; None if it has to wait, or gets none."""
        self.grants.ask(mac(number), seconds, self.now)
        answers = self.grants.take_answers()
        return answers[0].grant.addr if answers and answers[0].grant is not None else None


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, number >> 8, number & 0xFF))


def online() -> Rig:
    rig = Rig()
    rig.pool.on_online(0.0)
    rig.settle()
    return rig


def test_a_client_waits_until_there_is_an_address_or_for_some_seconds() -> None:
    rig = Rig()
    assert rig.ask(1) is None
    assert rig.grants.deadline() == WAIT_S
    rig.pool.on_online(1.0)
    rig.settle()
    rig.grants.on_timer(1.0)
    (answer,) = rig.grants.take_answers()
    assert answer.grant is not None
    late = Rig()
    assert late.ask(1) is None
    late.grants.on_timer(WAIT_S)
    assert [answer.grant for answer in late.grants.take_answers()] == [None]
    assert late.grants.waiting_count == 0


def test_an_address_comes_back_after_its_lease_unless_it_is_renewed() -> None:
    rig = online()
    addr = rig.ask(1, 60.0)
    rig.now = 50.0
    assert rig.ask(1, 3600.0) == addr
    rig.grants.on_timer(60.0 + MARGIN_S)
    assert len(rig.grants) == 1
    rig.grants.on_timer(50.0 + 3600.0 + MARGIN_S)
    assert len(rig.grants) == 0


def test_a_declined_address_goes_to_nobody_for_a_while() -> None:
    rig = online()
    addr = rig.ask(1)
    assert addr is not None
    rig.grants.over(mac(1), addr, 0.0, declined=True)
    rig.settle()
    assert rig.ask(1, 3600.0) != addr
    got = {rig.ask(number, 3600.0) for number in range(2, 12)}
    assert addr not in got
    rig.grants.on_timer(DECLINED_S)
    assert len(rig.grants) == 11


def test_only_the_client_of_an_address_gives_it_back() -> None:
    rig = online()
    addr = rig.ask(1)
    assert addr is not None
    rig.grants.over(mac(2), addr, 0.0, declined=False)
    assert rig.ask(2) != addr


def test_the_number_of_clients_that_wait_is_bounded() -> None:
    rig = Rig()
    for number in range(MAX_WAITING + 5):
        rig.grants.ask(mac(number), 60.0, 0.0)
    assert rig.grants.waiting_count == MAX_WAITING
    assert [answer.grant for answer in rig.grants.take_answers()] == [None] * 5


def test_a_host_that_is_fenced_gives_nothing() -> None:
    rig = online()
    rig.pool.on_member("here", Member(1, 1, True), 999, 1.0)
    assert rig.ask(1) is None
