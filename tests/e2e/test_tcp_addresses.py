"""SYNs to and from addresses that are no host are dropped in silence (RFC 9293 MUST-57, MUST-63)."""

import socket

import pytest

from pipeline.wire import ethernet, ip, ipv4, tcp
from tests.support.agent import GUEST_ADDR, GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.frames import GATEWAY_MAC, tcp_frame
from tests.support.netns import INTERNET_ADDR, wait_for

pytestmark = pytest.mark.e2e

COPIES = 3


def send_syns(agent: Agent, src: str, dst: str) -> list[bytes]:
    """Send SYNs as they are; what the gateway sent to the card within the next moment."""
    to_gateway = ethernet.header(GATEWAY_MAC, bytes.fromhex(GUEST_MAC.replace(":", "")), ethernet.TYPE_IPV4)
    frame = tcp_frame(
        1000,
        flags=tcp.SYN,
        ack=0,
        src=ip.parse_ipv4(src),
        dst=ip.parse_ipv4(dst),
        eth_header=to_gateway,
    )

    def inside() -> list[bytes]:
        seen: list[bytes] = []
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethernet.TYPE_IPV4)) as sock:
            sock.bind(("tap0", ethernet.TYPE_IPV4))
            for _ in range(COPIES):
                sock.send(frame)
            sock.settimeout(0.4)
            while True:
                try:
                    seen.append(sock.recv(2000))
                except TimeoutError:
                    return seen

    return agent.guest.call(inside)


def answers(frames: list[bytes]) -> list[bytes]:
    """Those that are TCP."""
    return [frame for frame in frames if frame[23:24] == bytes((ipv4.PROTO_TCP,))]


def test_a_syn_to_an_address_that_is_no_host_is_dropped_in_silence(daemon: Daemon, agent: Agent) -> None:
    for dst, name in (
        ("224.0.0.1", "group"),
        ("255.255.255.255", "group"),
        ("192.168.127.255", "group"),
        ("127.0.0.1", "loopback"),
    ):
        assert answers(send_syns(agent, GUEST_ADDR, dst)) == [], dst
        wait_for(
            lambda name=name: (
                daemon.gauge(f"ipv4_packet_dropped_{name}_destination").get("demux", 0) >= COPIES
            ),
            f"the drops of {dst} in the counters",
        )


def test_a_syn_from_an_address_that_is_no_host_opens_nothing(daemon: Daemon, agent: Agent) -> None:
    for src in ("224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "192.168.127.255"):
        assert answers(send_syns(agent, src, INTERNET_ADDR)) == [], src
    assert daemon.gauge("tcp_flow_opened").get("tcp0", 0) == 0
