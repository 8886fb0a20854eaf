"""A daemon that is played, for ``top``: what it answers after so many seconds, and a source of polls."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pipeline.client.top import polls, samples
from pipeline.client.top.polls import Ask, Poll

CLOCK = 1_800_000_000.0
"""time.time() of the first poll."""
WORKERS = ("ingress", "demux", "tcp0", "egress0", "resolver", "listen")
BUSY = (0.41, 0.12, 0.365, 0.58, 0.0, 0.0)
RINGS = (("ingress", "demux", 3), ("ingress", "tcp0", 120), ("tcp0", "egress0", 41), ("egress0", "tcp0", 77))
GUESTS = (
    (1, "192.168.127.2", "5a:94:ef:e4:0c:ee", "process 4242 (qemu)"),
    (2, "192.168.127.3", "5a:94:ef:e4:0c:ef", "process 4311 (qemu)"),
    (3, "192.168.127.7", "02:00:00:00:00:07", "vsock 12"),
)


class PlayedFlow(NamedTuple):
    """A flow, with its bytes before the first poll and its bytes a second."""

    id: str
    guest: int
    port: int
    peer: str
    peer_port: int
    bytes_from_guest: int
    bytes_to_guest: int
    up: int
    down: int
    state: str = "established"
    direction: str = "out"


FLOWS = (
    PlayedFlow("tcp0-17", 1, 40122, "mirror.example.org", 443, 9_000_000, 812_000_000, 0, 35_200_000),
    PlayedFlow("tcp0-21", 2, 51820, "backup.example.net", 22, 640_000_000, 90_000, 9_100_000, 1500),
    PlayedFlow("tcp0-4", 3, 33100, "registry.example.com", 443, 70_000, 96_000_000, 900, 2_400_000),
    PlayedFlow("egress0-9", 1, 60001, "198.51.100.7", 3478, 55_000, 61_000, 18_000, 19_500, "open"),
    PlayedFlow("tcp0-30", 2, 8080, "127.0.0.1", 53172, 1_200, 400, 0, 0, "close-wait", "in"),
    PlayedFlow("tcp0-33", 3, 41000, "198.51.100.9", 5432, 0, 0, 0, 0, "syn-sent"),
)


def status(seconds: float) -> dict[str, Any]:
    """The answer of /status."""
    return {
        "version": "0.1.0",
        "pid": 4100,
        "uptime_seconds": 93_784 + seconds,
        "guests": len(GUESTS),
        "flows": {"tcp": 5, "udp": 1, "icmp": 0},
        "bytes_from_guests": 649_127_600 + int(9_118_900 * seconds),
        "bytes_to_guests": 908_151_400 + int(37_621_000 * seconds),
        "workers": [
            {"worker": worker, "process": worker, "pid": 4101 + at, "answers": True, "busy": busy}
            for at, (worker, busy) in enumerate(zip(WORKERS, BUSY, strict=True))
        ],
        "drops": {
            "link_frame_dropped_no_neighbor": 12,
            "tcp_segment_dropped_paws": 3,
            "udp_datagram_dropped_socket_full": 4_210 + int(35 * seconds),
        },
    }


def guests(_seconds: float = 0) -> list[dict[str, Any]]:
    """The answer of /guests."""
    return [
        {
            "guest": number,
            "opened_by": peer,
            "mac_addresses": [mac],
            "ip_addresses": [address],
            "links": 1,
            "tcp_flows": sum(flow.guest == number and flow.id.startswith("tcp") for flow in FLOWS),
            "udp_flows": sum(flow.guest == number and flow.id.startswith("egress") for flow in FLOWS),
        }
        for number, address, mac, peer in GUESTS
    ]


def flows(seconds: float, guest: str = "") -> dict[str, Any]:
    """The answer of /flows."""
    addresses = {number: address for number, address, *_ in GUESTS}
    found = [
        {
            "id": flow.id,
            "protocol": "tcp" if flow.id.startswith("tcp") else "udp",
            "direction": flow.direction,
            "guest": flow.guest,
            "guest_address": addresses[flow.guest],
            "guest_port": flow.port,
            "address": "203.0.113.5" if flow.peer[0].isalpha() else flow.peer,
            "port": flow.peer_port,
            "name": flow.peer if flow.peer[0].isalpha() else None,
            "state": flow.state,
            "age_seconds": 61.5 + seconds,
            "idle_seconds": 0.0 if flow.up or flow.down else 40.0 + seconds,
            "bytes_from_guest": flow.bytes_from_guest + int(flow.up * seconds),
            "bytes_to_guest": flow.bytes_to_guest + int(flow.down * seconds),
        }
        for flow in FLOWS
        if guest in ("", str(flow.guest))
    ]
    return {"flows": found, "total": len(found)}


def metrics(seconds: float) -> str:
    """The page of /metrics, the part that matters and a bit more."""
    lines = ["# HELP gvtap_ring_records records", "# TYPE gvtap_ring_records gauge"]
    for source, target, depth in RINGS:
        edge = f'source="{source}",target="{target}"'
        lines += [
            f"gvtap_ring_records{{{edge}}} {depth}.0",
            f"gvtap_ring_capacity_records{{{edge}}} 4096.0",
        ]
    for worker, size, free in (("ingress", 256, 211), ("egress0", 224, 97), ("demux", 16, 16)):
        lines += [
            f'gvtap_worker_slots{{worker="{worker}"}} {size}.0',
            f'gvtap_worker_slots_free{{worker="{worker}"}} {free}.0',
        ]
    for number, _, mac, _ in GUESTS:
        for way, before, rate in (
            ("from_guest", "bytes_from_guest", "up"),
            ("to_guest", "bytes_to_guest", "down"),
        ):
            mine = [flow._asdict() for flow in FLOWS if flow.guest == number]
            count = sum(flow[before] + int(flow[rate] * seconds) for flow in mine)
            lines.append(f'gvtap_guest_bytes_total{{direction="{way}",guest="{mac}"}} {count}.0')
    return "\n".join([*lines, "process_cpu_seconds_total 1.5", ""])


def answer(ask: Ask, seconds: float) -> object:
    """What polls.take() makes of the daemon's answer."""
    match ask.path:
        case polls.STATUS:
            return json.loads(json.dumps(status(seconds)))
        case polls.GUESTS:
            return guests()
        case polls.FLOWS:
            return flows(seconds, dict(ask.fields).get("guest", ""))
        case _:
            return samples.Samples(metrics(seconds))


def poll(asks: Sequence[Ask], seconds: float) -> Poll:
    """A poll that found everything, so many seconds after the first."""
    answers = {ask: answer(ask, seconds) for ask in asks}
    return Poll(1000.0 + seconds, CLOCK + seconds, answers, {})


class PlayedSource:
    """A source of polls that come when step() says so."""

    def __init__(self) -> None:
        self.asks: tuple[Ask, ...] = ()
        self.ended: list[str] = []
        self.refusal = ""
        """What the daemon says to the next DELETE."""
        self.seconds = 0.0

    def clock(self) -> float:
        """The clock of the polls."""
        return 1000.0 + self.seconds

    def start(self, asks: Sequence[Ask], deliver: Callable[[Poll], object]) -> None:
        self.asks, self._deliver = tuple(asks), deliver

    def ask(self, asks: Sequence[Ask]) -> None:
        self.asks = tuple(asks)

    def stop(self) -> None:
        """Nothing runs."""

    def end(self, flow: str, done: Callable[[str], object]) -> None:
        self.ended.append(flow)
        done(self.refusal)

    def step(self, seconds: float = 2.0) -> None:
        """Deliver a poll, and let time pass until the next."""
        self._deliver(poll(self.asks, self.seconds))
        self.seconds += seconds

    def fail(self, error: str) -> None:
        """Deliver a poll without an answer."""
        self._deliver(Poll(self.clock(), CLOCK + self.seconds, {}, {}, error))
