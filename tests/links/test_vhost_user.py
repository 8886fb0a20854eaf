"""Monitors that speak vhost-user: messages, memory, and when a guest has a link."""

import os
import struct
from pathlib import Path

import pytest

from perf import vhost_frontend as driver
from tests.support.vhost import Rig, framed, is_closed, link_of

NO_HEADER = bytes(driver.HEADER)


# --- the life of a link ------------------------------------------------------------------


def test_stopped_rings_end_the_link_and_started_ones_attach_a_new_one(rig: Rig) -> None:
    card = rig.opened()
    first = link_of(rig)
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]
    first.send([framed(b"x" * 60)])
    assert rig.call(card.stop) == (1, 1)
    assert rig.owner.hung_up == ["the guest has stopped its card"]
    rig.call(card.start)
    rig.owner.wait(lambda: rig.owner.guests)
    assert link_of(rig) is not first
    card.send_frame(b"2" * 60)
    assert rig.owner.frames(1) == [b"2" * 60]


def test_a_new_connection_goes_on_at_the_used_index(rig: Rig) -> None:
    card = rig.opened()
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]
    # The frontend is not told what the backend has read since: it asks for too small an index.
    card.send_frame(b"2" * 60)
    card.sock.close()
    rig.owner.wait(lambda: rig.owner.hung_up)
    card.send_frame(b"3" * 60)
    rig.call(lambda: card.reopen(rig.path))
    rig.owner.wait(lambda: rig.owner.guests)
    assert rig.owner.frames(2) == [b"2" * 60, b"3" * 60]


def test_disabled_rings_have_no_link(rig: Rig) -> None:
    card = rig.opened()
    rig.call(lambda: card.tell(driver.ENABLE, struct.pack("<II", 1, 0)))
    assert rig.owner.hung_up == ["the guest has stopped its card"]
    rig.call(lambda: card.tell(driver.ENABLE, struct.pack("<II", 1, 1)))
    assert link_of(rig)


@pytest.mark.parametrize("request_number", [4, 34], ids=["RESET_OWNER", "RESET_DEVICE"])
def test_a_reset_ends_the_link(rig: Rig, request_number: int) -> None:
    card = rig.opened()
    card.send(request_number)
    rig.owner.wait(lambda: rig.owner.hung_up)
    rig.call(card.start)
    assert link_of(rig)


def test_a_link_that_the_owner_refuses_ends_its_connection(rig: Rig) -> None:
    card = rig.opened()
    rig.owner.leave(link_of(rig))
    assert is_closed(card.sock)


def test_memory_may_change_while_rings_run(rig: Rig) -> None:
    card = rig.opened()
    link = link_of(rig)
    rig.call(card.share)
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]
    assert link_of(rig) is link


def test_memory_is_added_and_removed_by_regions(rig: Rig) -> None:
    card = rig.frontend()

    def regions() -> None:
        card.connect(rig.path)
        card.negotiate()
        assert struct.unpack("<Q", card.ask(36)) == (32,)
        region = struct.pack("<QQQQQ", 0, driver.GUEST_BASE, card.memory.size, driver.USER_BASE, 0)
        card.tell(38, region)
        card.tell(37, region, (card.memory.fd,))
        card.make_rings()
        card.start()

    rig.call(regions)
    card.send_frame(b"1" * 60)
    assert rig.owner.frames(1) == [b"1" * 60]


def test_several_pairs_of_queues_send(rig: Rig) -> None:
    card = rig.opened()
    assert struct.unpack("<Q", rig.call(lambda: card.ask(driver.GET_QUEUE_NUM))) == (8,)
    second = driver.DriverRing(card.memory, 16, 0x8000, True)
    at = card.transmit_at
    card.memory.view[at : at + 72] = NO_HEADER + b"2" * 60

    def start_second() -> None:
        for index in (2, 3):
            places = [driver.USER_BASE + place for place in (second.table, second.used, second.avail)]
            card.tell(driver.SET_NUM, struct.pack("<II", index, 16))
            card.tell(driver.SET_ADDR, struct.pack("<IIQQQQ", index, 0, *places, 0))
            card.tell(driver.SET_KICK, struct.pack("<Q", index), (second.kick,))
            card.tell(driver.ENABLE, struct.pack("<II", index, 1))

    rig.call(start_second)
    link = link_of(rig)
    assert link.read_burst() is None
    second.describe(0, at, 72, 0)
    second.add(0)
    second.publish()
    rig.owner.wait(lambda: link in rig.owner.woken)
    assert rig.owner.frames(1) == [b"2" * 60]
    assert second.completed() == [(0, 0)]
    second.close()


def test_inflight_has_a_file_of_the_right_size(rig: Rig) -> None:
    card = rig.frontend()

    def ask() -> tuple[bytes, list[int]]:
        card.connect(rig.path)
        card.negotiate()
        card.send(31, struct.pack("<QQHH", 0, 0, 2, 256))
        return card.answer_with_fds(31)

    payload, [fd] = rig.call(ask)
    size, offset, queues, entries = struct.unpack("<QQHH", payload)
    assert (size, offset, queues, entries) == (2 * (16 + 256 * 16 + 48), 0, 2, 256)
    content = os.pread(fd, size, 0)
    assert struct.unpack_from("<QHHHH", content) == (0, 1, 256, 0, 0)
    assert struct.unpack_from("<QHHHH", content, size // 2) == (0, 1, 256, 0, 0)
    rig.call(lambda: card.tell(32, payload, (fd,)))
    os.close(fd)


def test_the_configuration_space_has_pairs_and_mtu(rig: Rig) -> None:
    card = rig.frontend()

    def ask() -> bytes:
        card.connect(rig.path)
        card.negotiate()
        return card.ask(24, struct.pack("<III", 0, 12, 0) + bytes(12))

    answer = rig.call(ask)
    assert struct.unpack("<III6sHHH", answer) == (0, 12, 0, bytes(6), 1, 8, 1500)


# --- lies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("request_number", [driver.SET_KICK, driver.SET_CALL])
def test_a_kick_or_call_must_be_an_eventfd(rig: Rig, request_number: int) -> None:
    card = rig.opened()
    readable, writable = os.pipe()
    card.send(request_number, struct.pack("<Q", 1), (writable,))
    rig.owner.wait(lambda: rig.owner.refused)
    assert is_closed(card.sock)
    assert rig.owner.refused == [
        (
            "vhost-user: a descriptor for kicks or calls is not an eventfd",
            "vhost_user_link_closed_bad_message",
        )
    ]
    os.close(readable)
    os.close(writable)


def ring_message(request: int, *values: int) -> tuple[int, bytes]:
    return request, struct.pack("<II", *values)


@pytest.mark.parametrize(
    ("request_number", "payload"),
    [
        ring_message(driver.SET_NUM, 0, 0),
        ring_message(driver.SET_NUM, 0, 3),
        ring_message(driver.SET_NUM, 0, 65536),
        ring_message(driver.SET_NUM, 16, 256),
        ring_message(driver.SET_BASE, 0, 65536),
        ring_message(driver.ENABLE, 1000, 1),
        (driver.SET_NUM, b"\0\0\0\0"),
        (driver.SET_ADDR, struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0)),
        (driver.SET_KICK, struct.pack("<Q", 0x100)),
        (driver.SET_KICK, struct.pack("<Q", 0)),
        (driver.SET_MEM_TABLE, struct.pack("<II", 0, 0)),
        (driver.SET_MEM_TABLE, struct.pack("<II", 9, 0) + bytes(32 * 9)),
        (driver.SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, 4096, 0, 0)),
        (driver.SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, (1 << 64) - 1, 4096, 0, 0)),
        (driver.SET_FEATURES, struct.pack("<Q", 1 << 26)),
        (driver.SET_FEATURES, b""),
        (driver.SET_PROTOCOL, struct.pack("<Q", 1 << 1)),
        (20, struct.pack("<Q", 20)),
        (31, struct.pack("<QQHH", 0, 0, 17, 256)),
        (31, struct.pack("<QQHH", 0, 0, 1, 2048)),
        (38, struct.pack("<QQQQQ", 0, 0, 4096, 0, 0)),
        (6, b""),
        (77, b""),
        (0, b""),
    ],
)
def test_an_impossible_message_ends_the_connection(rig: Rig, request_number: int, payload: bytes) -> None:
    card = rig.frontend()

    def send() -> None:
        card.connect(rig.path)
        card.negotiate()
        card.send(request_number, payload)

    rig.call(send)
    rig.owner.wait(lambda: rig.owner.refused)
    assert rig.owner.refused[0][1] == "vhost_user_link_closed_bad_message"
    assert is_closed(card.sock)
    # The next one is served.
    rig.opened()


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("<III", 1, 2, 0),
        struct.pack("<III", 1, 5, 0),
        struct.pack("<III", 1, 1, 5000),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["version", "reply", "size", "http"],
)
def test_a_bad_header_ends_the_connection(rig: Rig, message: bytes) -> None:
    card = rig.frontend()
    card.connect(rig.path)
    card.sock.sendall(message)
    rig.owner.wait(lambda: rig.owner.refused)
    assert is_closed(card.sock)


def test_messages_may_come_byte_by_byte(rig: Rig) -> None:
    card = rig.frontend()

    def ask() -> bytes:
        card.connect(rig.path)
        for byte in struct.pack("<III", 1, 1, 0) + struct.pack("<IIIQ", 2, 1, 8, 0):
            card.sock.sendall(bytes([byte]))
        return card.answer(1)

    assert len(rig.call(ask)) == 8


def test_descriptors_that_nobody_asked_for_are_closed(rig: Rig) -> None:
    card = rig.frontend()
    zero = os.open("/dev/zero", os.O_RDONLY)
    card.connect(rig.path)
    for _ in range(5):
        card.send(driver.SET_OWNER, b"", (zero,) * 8)
    card.send(driver.SET_OWNER, b"", (zero,) * 20)
    rig.owner.wait(lambda: rig.owner.refused)
    os.close(zero)


def test_regions_that_overlap_are_refused(rig: Rig) -> None:
    card = rig.frontend()

    def send() -> None:
        card.connect(rig.path)
        card.negotiate()
        table = struct.pack("<II", 2, 0) + struct.pack("<QQQQ", 0, 8192, 0, 0)
        table += struct.pack("<QQQQ", 4096, 8192, 1 << 40, 0)
        card.send(driver.SET_MEM_TABLE, table, (card.memory.fd, card.memory.fd))

    rig.call(send)
    rig.owner.wait(lambda: rig.owner.refused)
    assert "same guest address" in rig.owner.refused[0][0]


def test_rings_outside_of_memory_are_refused(rig: Rig) -> None:
    card = rig.frontend()
    rig.call(lambda: (card.connect(rig.path), card.negotiate(), card.make_rings()))
    card.receive.table += 1 << 30
    card.protocol = 0
    card.start()
    rig.owner.wait(lambda: rig.owner.refused)
    assert rig.owner.refused[0][1] == "vhost_user_link_closed_bad_address"
    assert not rig.owner.guests


def test_rings_that_are_not_aligned_are_refused(rig: Rig) -> None:
    card = rig.frontend()
    rig.call(lambda: (card.connect(rig.path), card.negotiate(), card.make_rings()))
    card.transmit.table += 8
    card.protocol = 0
    card.start()
    rig.owner.wait(lambda: rig.owner.refused)
    assert rig.owner.refused[0][1] == "vhost_user_link_closed_bad_ring"


def test_features_cannot_change_while_rings_run(rig: Rig) -> None:
    card = rig.opened()
    card.send(driver.SET_FEATURES, struct.pack("<Q", driver.VERSION_1))
    rig.owner.wait(lambda: rig.owner.refused)
    assert not rig.owner.guests


def test_a_monitor_that_does_not_read_is_disconnected(rig: Rig) -> None:
    card = rig.frontend()
    card.connect(rig.path)
    card.sock.setblocking(False)
    while not rig.owner.refused:
        try:
            card.send(driver.GET_FEATURES)
        except BlockingIOError:
            rig.serve()
    assert rig.owner.refused[0][0] == "vhost-user: the monitor does not read"


# --- memory that cannot be mapped -----------------------------------------------------------


def test_memory_that_takes_a_seal_gets_it(rig: Rig) -> None:
    card = rig.opened(seals=0)
    with pytest.raises(PermissionError):
        os.ftruncate(card.memory.fd, 0)


def test_a_file_that_is_not_in_memory_is_refused(rig: Rig, tmp_path: Path) -> None:
    card = rig.frontend()
    card.connect(rig.path)
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    table = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, 4096, 0, 0)
    card.send(driver.SET_MEM_TABLE, table, (fd,))
    rig.owner.wait(lambda: rig.owner.refused)
    assert "does not lie in memory" in rig.owner.refused[0][0]
    os.close(fd)


def test_a_region_longer_than_its_file_is_refused(rig: Rig) -> None:
    for seals in (1, 6):
        card = rig.frontend(seals=seals)
        card.connect(rig.path)
        table = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, card.memory.size + 1, 0, 0)
        card.send(driver.SET_MEM_TABLE, table, (card.memory.fd,))
        rig.owner.wait(lambda: rig.owner.refused)
        assert rig.owner.refused.pop()[1] == "vhost_user_link_closed_bad_message"
