"""Bursts of TCP frames for tests of GRO: senders of both families, and steps that break what they send."""

from typing import NamedTuple

from pipeline.wire import ipv4, tcp, tcp_options
from tests.support.frames import FAMILIES, timestamps
from tests.support.offload import left_out

TAG = bytes.fromhex("8100a000")
OTHER_VLAN = bytes.fromhex("8100a005")


class Step(NamedTuple):
    """One frame of a made-up burst: what it changes against the flow's last."""

    flow: int
    what: str
    size: int
    repeat: int


STEPS = (
    "data", "data", "data", "data", "short", "psh", "ack", "ack", "dup", "window", "sack", "time", "fin",
    "syn", "gap", "old", "ttl", "last-hop", "tos", "mac", "no-df", "ece", "pad", "bad-tcp", "bad-ip", "udp",
    "arp", "runt", "tiny", "ip-options", "fragment", "bad-offset", "long-total", "short-total", "reserved",
    "back", "partial", "partial", "tag", "tag-partial", "vlan",
)  # fmt: skip
WITH_DATA = (
    "data", "psh", "gap", "old", "ttl", "last-hop", "tos", "mac", "no-df", "ece", "bad-tcp", "bad-ip",
    "partial", "tag", "tag-partial", "vlan",
)  # fmt: skip


class Flow:
    """A sender that remembers where it was, so that steps mostly continue each other."""

    def __init__(self, number: int, timed: bool, family: str = "IPv4") -> None:
        self.family = FAMILIES[family]
        self.is_ipv6 = family == "IPv6"
        self.seq = 0xFFFFFF00
        self.ack = 0xFFFFF000
        self.wnd = 500
        self.ts = 7 if timed else 0
        self.sport = 40000 + number
        self.ident = 0

    def make(self, what: str, size: int) -> bytes:
        options = timestamps(self.ts, 3) if self.ts else b""
        keys: dict[str, int | bytes] = {}
        payload = b""
        flags = tcp.ACK
        if what in WITH_DATA:
            payload = bytes([self.seq & 0xFF]) * size
        if what == "short":
            payload = b"s" * max(1, size // 2)
        if what == "ack":
            self.ack += 1448
        if what == "back":
            self.ack -= 999
        if what == "window":
            self.wnd += 1
        if what == "time":
            self.ts += 1
            payload = b"t" * size
            options = timestamps(self.ts, 3)
        if what == "sack":
            options = tcp_options.build(bool(self.ts), self.ts, 3, ((5, 9), (20, 30)))
        self.seq += {"gap": 100, "old": -100}.get(what, 0)
        hops = {"ttl": 63, "last-hop": 1}.get(what, 64)
        tos = 3 if what == "tos" else 0
        if self.is_ipv6:
            # A flow label takes the place of DF.
            keys |= {"hops": hops, "traffic_class": tos, "label": int(what == "no-df")}
        else:
            ip_flags = {"no-df": 0, "fragment": ipv4.FLAG_MF}.get(what, ipv4.FLAG_DF)
            keys |= {"ttl": hops, "tos": tos, "ident": self.ident, "ip_flags": ip_flags}
        keys["eth_header"] = self.family.to_guest if what == "mac" else self.family.from_guest
        keys["pad_to"] = self.family.tcp_len + 6 if what == "pad" else 0
        flags |= {"psh": tcp.PSH, "fin": tcp.FIN, "syn": tcp.SYN, "ece": tcp.ECE}.get(what, 0)
        self.ident += 1
        frame = bytearray(
            self.family.tcp_frame(
                self.seq & 0xFFFFFFFF, payload, flags=flags, ack=self.ack & 0xFFFFFFFF, wnd=self.wnd,
                options=options, sport=self.sport, **keys,
            )
        )  # fmt: skip
        self.seq += len(payload)
        return bytes(spoil(frame, what))


def spoil_ipv6(frame: bytearray, what: str) -> None:
    """Break the IPv6 header in the way of the step."""
    if what in ("udp", "ip-options", "fragment"):
        frame[20] = {"udp": 17, "ip-options": 0, "fragment": 44}[what]
    elif what == "tiny":
        del frame[70:]
    elif what == "bad-offset":
        frame[66] = 0xF0
    elif what == "long-total":
        frame[18] = 0x77
    elif what == "short-total":
        frame[18:20] = bytes((0, 19))
    elif what == "reserved":
        frame[14] = 0x50
    elif what == "bad-ip":
        frame[22:38] = bytes(10) + b"\xff\xff\x7f\0\0\1"
    elif what == "window":
        frame[38:40] = b"\xfe\x80"


def spoil(frame: bytearray, what: str) -> bytearray:
    """Break a good frame in the way of the step."""
    if frame[12] == 0x86:
        spoil_ipv6(frame, what)
        if what not in ("bad-tcp", "arp", "runt"):
            what = what if "partial" in what or "tag" in what or what == "vlan" else ""
    if what == "bad-tcp":
        frame[-1] ^= 1
    elif what == "bad-ip":
        frame[24] ^= 1
    elif what == "udp":
        frame[23] = 17
    elif what == "arp":
        frame[12:14] = b"\x08\x06"
    elif what == "runt":
        del frame[13:]
    elif what == "tiny":
        del frame[50:]
    elif what == "ip-options":
        frame[14] = 0x46
    elif what == "bad-offset":
        frame[46] = 0xF0
    elif what == "long-total":
        frame[16] = 0x77
    elif what == "short-total":
        frame[16:18] = bytes((0, 39))
    elif what == "reserved":
        frame[20] |= 0x80
    if "partial" in what:
        frame[:] = left_out(bytes(frame))
    if "tag" in what or what == "vlan":
        frame[12:12] = OTHER_VLAN if what == "vlan" else TAG
    return frame
