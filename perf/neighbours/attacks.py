"""The attacks that perf.neighbours measures, a row each, and how their frames become bursts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import NamedTuple

from perf.neighbours import frames
from perf.neighbours.frames import Ports
from pipeline.wire import offload
from pipeline.wire.framing import QEMU, Framing

BURST = 48_000
"""Bytes of one send at most. They fit into one datagram, which is what the control sends."""
IDLE = "idle"
QUIET = "a quiet guest"
_LETTERS = b"abcdefghijklmnop"


class Attack(NamedTuple):
    """One line of the table.

    ``rate``: frames a second (of `reconnects`: connections), 0 for as many as the link takes. ``renew_at``:
    where in each frame the bytes lie that the sender changes every time, -1 for nowhere. ``vnet``: the link
    is the agent's, with offload. ``connection``: the frames belong to a connection that was opened before.
    """

    name: str
    make: Callable[[Ports], list[bytes]]
    links: int = 1
    rate: int = 0
    renew_at: int = -1
    vnet: bool = False
    connection: bool = False
    reconnects: bool = False

    @property
    def framing(self) -> Framing:
        """How frames lie in the link's stream."""
        return offload.FRAMING if self.vnet else QEMU


TABLE = (
    Attack(IDLE, lambda _: [], links=0),
    Attack(QUIET, frames.udp_flows(1), rate=1),
    Attack("one UDP flow", frames.udp_flows(1)),
    Attack("50 UDP flows", frames.udp_flows(50)),
    Attack("UDP in small portions", frames.udp_flows(1), rate=100_000),
    Attack("large and small UDP", frames.large_and_small),
    Attack("duplicate ACKs", frames.duplicate_acks, connection=True),
    Attack("malformed DNS", frames.malformed_dns),
    Attack("own names", frames.own_names),
    Attack("cached names", frames.cached_names),
    Attack("random names", frames.random_names, renew_at=frames.RENEWED_NAME_AT),
    Attack("DHCP DISCOVER", frames.discovers, renew_at=frames.RENEWED_CLIENT_AT),
    Attack("lying offload headers", frames.lying_headers, vnet=True),
    Attack("fragments", frames.fragments),
    Attack("bad frames on 8 links", frames.bad_frames, links=8),
    Attack("bad frames on 32 links", frames.bad_frames, links=32),
    Attack("reconnects 500/s", frames.udp_flows(1), rate=500, reconnects=True),
    Attack("stolen MAC 200/s", frames.stolen_mac, rate=200),
    Attack("gateway ARP 200/s", frames.gateway_arp, rate=200),
    Attack("SYN flood", frames.syn_flood),
    Attack("SYNs after large UDP", frames.large_then_syns),
)
BY_NAME = {attack.name: attack for attack in TABLE}


class Burst:
    """Frames with their lengths, ready to send."""

    def __init__(self, made: list[bytes], framing: Framing, renew_at: int = -1) -> None:
        """renew_at: as in Attack. All frames must be of one length then; ValueError if they are not."""
        self.data = bytearray(b"".join(framing.prefix.pack(len(frame)) + frame for frame in made))
        self.frames = len(made)
        self._stride = framing.prefix_len + len(made[0])
        self._renew_at = framing.prefix_len + renew_at if renew_at >= 0 else -1
        if renew_at >= 0 and len(self.data) != self._stride * self.frames:
            raise ValueError("frames that are renewed must be of one length")

    def renew(self, generation: int) -> None:
        """Write the generation into every frame, four bits a letter."""
        if self._renew_at < 0:
            return
        for index in range(frames.RENEWED):
            letter = _LETTERS[generation >> 4 * index & 15]
            self.data[self._renew_at + index :: self._stride] = bytes((letter,)) * self.frames


def bursts(attack: Attack, ports: Ports, link: int = 0) -> list[Burst]:
    """All frames of an attack in bursts of up to BURST bytes, or of one frame where it has a rate.

    link: the number of the link that they are for, from 0 on.
    """
    made = [frames.from_link(frame, link) for frame in attack.make(ports)]
    if attack.rate:
        return [Burst([frame], attack.framing) for frame in made]
    prefix = attack.framing.prefix_len
    ready: list[Burst] = []
    current: list[bytes] = []
    room = BURST
    # Few frames are repeated until one burst is full.
    for count, frame in enumerate(cycle(made)):
        if room < prefix + len(frame):
            ready.append(Burst(current, attack.framing, attack.renew_at))
            current, room = [], BURST
            if count >= len(made):
                return ready
        current.append(frame)
        room -= prefix + len(frame)
    return ready
