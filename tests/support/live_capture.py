"""The command ``gvtap-pipeline capture`` in a test, and what is in the captures that it writes."""

import io
import signal
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pcapng
from pcapng.blocks import EnhancedPacket, InterfaceDescription, SectionHeader

from tests.support.daemon import Daemon
from tests.support.netns import wait_for

FROM_GUEST, TO_GUEST = "inbound", "outbound"
_BLOCK = struct.Struct("<II")
"""Type and length of a block."""


class Packet(NamedTuple):
    """One frame. direction: FROM_GUEST or TO_GUEST."""

    interface: str
    data: bytes
    length: int
    direction: str
    comment: str
    missing: int


class Found(NamedTuple):
    """What a capture has."""

    interfaces: list[str]
    packets: list[Packet]


def read(data: bytes) -> Found:
    """The blocks of a capture, as python-pcapng reads them."""
    interfaces, packets = [], []
    for block in pcapng.FileScanner(io.BytesIO(data)):
        if isinstance(block, SectionHeader):
            assert block.options["shb_userappl"] == "gvtap-pipeline"
        elif isinstance(block, InterfaceDescription):
            assert block.link_type == 1
            interfaces.append(block.options["if_name"])
        elif isinstance(block, EnhancedPacket):
            options: Any = block.options
            packets.append(
                Packet(
                    interfaces[block.interface_id],
                    block.packet_data,
                    block.packet_len,
                    options["epb_flags"].inout,
                    _first(options, "opt_comment", ""),
                    _first(options, "epb_dropcount", 0),
                )
            )
        else:
            raise AssertionError(f"unexpected block {block}")
    return Found(interfaces, packets)


def _packet_count(data: bytes) -> int:
    """The packets that are there, whatever the last block lacks."""
    at = count = 0
    while at + _BLOCK.size <= len(data):
        kind, length = _BLOCK.unpack_from(data, at)
        at += length
        count += kind == EnhancedPacket.magic_number and at <= len(data)
    return count


def _first(options: Any, name: str, absent: Any) -> Any:
    """An option, which python-pcapng raises KeyError for if it is absent."""
    return next(iter(options.get_all(name)), absent) if name in options else absent


class Capture:
    """One run of the command, which writes to a file."""

    def __init__(self, daemon: Daemon, path: Path, *flags: str) -> None:
        self._daemon = daemon
        self.path = path
        self._argv = [*daemon.command, "capture", "-api", f"unix://{daemon.socket}", "-w", str(path), *flags]
        self.text = ""

    def __enter__(self) -> "Capture":
        before = len(self._daemon.events("capture started"))
        self.process: subprocess.Popen[str] = self._daemon.namespace.popen(
            self._argv, stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: len(self._daemon.events("capture started")) > before, "the capture runs", 10, 0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the command as a user does, and check that it took that for an orderly end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        _, self.text = self.process.communicate(timeout=10)
        assert (self.process.returncode, self.text) == (0, "")

    def wait_for_packets(self, count: int) -> None:
        """Wait until the file has this many whole packets. The daemon sends them in bursts."""
        wait_for(lambda: _packet_count(self.path.read_bytes()) >= count, f"{count} packets", 10, 0.05)

    def found(self) -> Found:
        """What is in the file."""
        return read(self.path.read_bytes())
