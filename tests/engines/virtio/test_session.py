"""What a frontend may say and when, and what follows from it."""

import pytest

from pipeline.engines.virtio import session as sessions
from pipeline.engines.virtio.session import Answer, Session, SessionError
from pipeline.engines.virtio.split_ring import RingPlace
from pipeline.wire import vhost_user as vu
from pipeline.wire import virtio

PROTOCOL = virtio.F_PROTOCOL_FEATURES


def say(session: Session, request: int, payload: bytes = b"", fds: int = 0, flags: int = 1) -> Answer:
    return session.on_message(vu.Header(request, flags, len(payload)), payload, fds)


def state(index: int, number: int) -> bytes:
    return vu.VRING_STATE.pack(index, number)


def start(session: Session, *indices: int) -> None:
    for index in indices:
        say(session, vu.SET_VRING_NUM, state(index, 256))
        say(session, vu.SET_VRING_ADDR, vu.VRING_ADDR.pack(index, 0, 16, 32, 64, 0))
        say(session, vu.SET_VRING_KICK, vu.U64.pack(index), 1)


@pytest.fixture
def session() -> Session:
    made = Session(1500)
    say(made, vu.SET_FEATURES, vu.U64.pack(PROTOCOL | virtio.F_VERSION_1))
    say(made, vu.SET_PROTOCOL_FEATURES, vu.U64.pack(vu.F_REPLY_ACK | vu.F_MQ))
    return made


def test_a_pair_runs_when_both_rings_are_started_and_enabled(session: Session) -> None:
    start(session, 0, 1)
    assert not session.runs(0)
    say(session, vu.SET_VRING_ENABLE, state(0, 1))
    assert not session.runs(0)
    say(session, vu.SET_VRING_ENABLE, state(1, 1))
    assert session.runs(0)
    assert not session.runs(1)
    assert session.rings[0].place == RingPlace(256, 16, 64, 32)


def test_without_protocol_features_rings_are_enabled_from_the_start() -> None:
    session = Session(1500)
    say(session, vu.SET_FEATURES, vu.U64.pack(virtio.F_VERSION_1))
    start(session, 0, 1)
    assert session.runs(0)


@pytest.mark.parametrize(
    ("request_number", "payload"),
    [
        (vu.SET_VRING_ENABLE, state(1, 0)),
        (vu.GET_VRING_BASE, state(0, 0)),
        (vu.RESET_DEVICE, b""),
        (vu.RESET_OWNER, b""),
    ],
)
def test_a_pair_stops(session: Session, request_number: int, payload: bytes) -> None:
    start(session, 0, 1)
    for index in (0, 1):
        say(session, vu.SET_VRING_ENABLE, state(index, 1))
    say(session, request_number, payload)
    assert not session.runs(0)


def test_the_base_is_where_the_ring_stopped(session: Session) -> None:
    say(session, vu.SET_VRING_BASE, state(1, 7))
    assert say(session, vu.GET_VRING_BASE, state(1, 0)).action == sessions.STOP_RING
    assert session.vring_base(1) == state(1, 7)
    session.rings[1].position = 9
    assert session.vring_base(1) == state(1, 9)


def test_a_message_is_acknowledged_if_that_was_agreed_on(session: Session) -> None:
    assert say(session, vu.SET_OWNER).reply is None
    assert say(session, vu.SET_OWNER, flags=9).reply == bytes(8)
    say(session, vu.SET_PROTOCOL_FEATURES, vu.U64.pack(0))
    assert say(session, vu.SET_OWNER, flags=9).reply is None


def test_a_message_with_an_answer_is_not_acknowledged_too(session: Session) -> None:
    answer = say(session, vu.GET_QUEUE_NUM, flags=9)
    assert answer.reply == vu.U64.pack(sessions.MAX_PAIRS)


def test_migration_is_not_offered(session: Session) -> None:
    offered = vu.parse_u64(say(session, vu.GET_FEATURES).reply or b"")
    assert not offered & 1 << 26
    assert offered & virtio.F_VERSION_1


@pytest.mark.parametrize("number", [vu.SET_VRING_NUM, vu.SET_VRING_BASE])
def test_a_started_ring_does_not_change(session: Session, number: int) -> None:
    start(session, 0)
    with pytest.raises(SessionError, match="while it is started"):
        say(session, number, state(0, 16))


def test_a_new_size_moves_the_ring_that_is_already_placed(session: Session) -> None:
    say(session, vu.SET_VRING_NUM, state(0, 256))
    say(session, vu.SET_VRING_ADDR, vu.VRING_ADDR.pack(0, 0, 16, 32, 64, 0))
    say(session, vu.SET_VRING_NUM, state(0, 16))
    assert session.rings[0].place == RingPlace(16, 16, 64, 32)


@pytest.mark.parametrize(("offset", "size"), [(0, 12), (10, 2), (0, 256), (200, 56)])
def test_the_configuration_can_be_read_in_parts(session: Session, offset: int, size: int) -> None:
    answer = say(session, vu.GET_CONFIG, vu.CONFIG.pack(offset, size, 0) + bytes(size)).reply or b""
    space = (bytes(6) + b"\1\0" + b"\x08\0" + (1500).to_bytes(2, "little")).ljust(256, b"\0")
    assert answer == vu.CONFIG.pack(offset, size, 0) + space[offset : offset + size]


def test_what_lies_behind_the_configuration_is_an_empty_answer(session: Session) -> None:
    assert say(session, vu.GET_CONFIG, vu.CONFIG.pack(250, 10, 0)).reply == b""


def test_errors_name_what_is_wrong(session: Session) -> None:
    with pytest.raises(SessionError, match="ring 16 does not exist"):
        say(session, vu.SET_VRING_ENABLE, state(16, 1))
    with pytest.raises(SessionError, match="request 44 was not agreed on"):
        say(session, 44)
    with pytest.raises(SessionError, match="request 2 has an impossible payload"):
        say(session, vu.SET_FEATURES, b"123")
