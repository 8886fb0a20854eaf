"""The ends of connections as they cross from one supervisor to another."""

from pipeline.ipc.healing_messages import ConnectionsEvent, EndStrays
from pipeline.records.flows import flow_key
from pipeline.stages.tcp import strays
from pipeline.wire import ip


class Worker:
    """Keeps what it is told to send."""

    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []

    def send_event(self, message: dict[str, object]) -> None:
        self.sent.append(message)


def test_keys_of_both_families_come_back() -> None:
    keys = {
        flow_key(ip.parse("192.168.127.2"), 40000, ip.parse("192.0.2.1"), 443),
        flow_key(ip.parse("fd00::2"), 65535, ip.parse("2001:db8::1"), 1),
    }
    worker = Worker()
    strays.report(worker, keys)  # type: ignore[arg-type]
    (message,) = worker.sent
    ends = ConnectionsEvent.decode(message).ends
    assert set(strays.keys_of(EndStrays(ends))) == keys


def test_of_very_many_connections_a_part_is_reported() -> None:
    keys = [flow_key(1, port, 2, number) for number in range(3) for port in range(10_000)]
    worker = Worker()
    strays.report(worker, keys)  # type: ignore[arg-type]
    assert len(ConnectionsEvent.decode(worker.sent[0]).ends) == strays.MOST


def test_rows_that_are_none_are_left_out() -> None:
    rows: list[list[object]] = [[], [b"", 1], ["a", 1, b"", 2], [bytes(16), 1, bytes(16), 2, 3]]
    assert list(strays.keys_of(EndStrays(rows))) == []
