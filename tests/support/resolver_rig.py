"""Runs the resolver stage in one process with real rings, slots and sockets. The test plays demux."""

import os
import socket
from pathlib import Path
from time import monotonic
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import structlog

from pipeline.config import merge, options
from pipeline.counters import INDEX
from pipeline.go import flags
from pipeline.ipc import message_table, messages
from pipeline.ipc.fabric import Fabric
from pipeline.records.addresses import NO_MAC
from pipeline.records.flows import Ends, flow_key
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.services import Named, ServiceDatagram
from pipeline.stages.resolver.dns import HostFiles
from pipeline.stages.resolver.stage import ResolverStage
from pipeline.topology import Layout
from pipeline.wire import ip
from tests.support.events import Events
from tests.support.layouts import decode
from tests.support.poller import LIMIT, Poller

GATEWAY = ip.parse_ipv4("192.168.127.1")
GUEST = ip.parse_ipv4("192.168.127.2")
BROADCAST = ip.BROADCAST


class FakeWorker(Poller):
    """The worker that the stage sees. The test is its loop."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__()
        self.ports = fabric.ports("resolver")
        self.counts = self.ports.counters.counts
        self.pool = self.ports.pool
        self.log = structlog.get_logger()
        self.events = Events()
        self.freed: list[int] = []
        self.sent: list[dict[str, object]] = []
        """Messages for the supervisor."""
        self.saved: list[bytes] = []
        """What the state file is to have, each time that the stage asks for it."""

    def send_event(self, message: dict[str, object]) -> None:
        event = message_table.event_of(message)
        if isinstance(event, messages.StateFileEvent):
            self.saved.append(event.content)
        else:
            self.sent.append(message)

    def free(self, slot: int, tag: int = 0) -> None:
        self.freed.append(slot)


class Upstream:
    """The only name server of the host. It answers every name with 10.1.2.3, or is silent.

    ``authentic``: set AD in answers to queries that ask for it. ``without_edns``: answer EDNS queries with
    the code ``refusal``, or not at all.
    """

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]
        self.queries = 0
        self.silent = False
        self.authentic = False
        self.without_edns = False
        self.refusal: dns.rcode.Rcode | None = None
        self.rows = 1

    def serve(self) -> None:
        while True:
            try:
                wire, client = self.sock.recvfrom(4096)
            except BlockingIOError:
                return
            self.queries += 1
            if self.silent:
                continue
            query = dns.message.from_wire(wire)
            message = dns.message.make_response(query)
            if self.without_edns and query.edns >= 0:
                if self.refusal is not None:
                    message.use_edns(False)
                    message.set_rcode(self.refusal)
                    self.sock.sendto(message.to_wire(), client)
                continue
            if self.authentic and query.flags & dns.flags.AD:
                message.flags |= dns.flags.AD
            rows = [f"10.1.2.{n + 3}" for n in range(self.rows)]
            message.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", *rows))
            self.sock.sendto(message.to_wire(max_size=65535), client)


class Rig:
    """The stage, demux's ends of its rings, and guests' connections."""

    def __init__(
        self,
        tmp_path: Path,
        words: list[str],
        resolv_conf: str = "nameserver 192.168.127.1\nnameserver 127.0.0.1\n",
    ) -> None:
        """words: flags. "{port}" in one is the port of the name server."""
        self.upstream = Upstream()
        words = [word.format(port=self.upstream.port) for word in words]
        (tmp_path / "resolv.conf").write_text(resolv_conf)
        (tmp_path / "hosts").write_text("10.9.9.9 nas.home\n")
        self.fabric = Fabric.create(Layout(slots=64))
        self.worker = FakeWorker(self.fabric)
        demux = self.fabric.ports("demux")
        self.to_stage = demux.rings_out["resolver"]
        self.from_stage = demux.rings_in["resolver"]
        self.slots = demux.arena.slots
        pool = self.fabric.ports("ingress").pool
        assert pool is not None
        self.ingress = pool
        self.given = 0
        self.config = merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)[0]
        self.stage = ResolverStage(
            self.worker,  # type: ignore[arg-type]
            self.config,
            files=HostFiles(
                str(tmp_path / "resolv.conf"), str(tmp_path / "hosts"), dns_port=self.upstream.port
            ),
        )

    def send(
        self,
        payload: bytes,
        port: int,
        guest_addr: int = GUEST,
        remote: int = GATEWAY,
        guest_port: int = 4000,
        link: int = 3,
        crowded: bool = False,
        mac: bytes = NO_MAC,
    ) -> None:
        """Send a guest's datagram to the stage, as demux does."""
        slot = self.ingress.alloc()
        self.slots[slot][500 : 500 + len(payload)] = payload
        key = flow_key(guest_addr, guest_port, remote, port)
        self.to_stage.push(ServiceDatagram.pack(link, key, slot, 500, len(payload), crowded, mac))
        self.to_stage.publish()
        self.given += 1

    def breathe(self, now: float | None = None) -> int:
        """Run one turn of the worker's loop."""
        self.worker.run(0)
        work = self.stage.step(monotonic() if now is None else now)
        self.turn()
        return work

    def turn(self) -> None:
        """What the others do in a turn: the worker publishes, the server answers, slots go home."""
        self.worker.ports.rings_out["demux"].publish()
        self.upstream.serve()
        for slot in self.worker.freed:
            self.ingress.unref(slot)
        self.given -= len(self.worker.freed)
        self.worker.freed.clear()

    def replies(self) -> list[tuple[dict[str, int], bytes]]:
        """The records for demux, with their payload. Frees their slots."""
        found = []
        while burst := self.from_stage.peek():
            for at in range(0, len(burst), RECORD_BYTES):
                answer = decode(burst[at : at + RECORD_BYTES])
                if isinstance(answer, Named):
                    continue  # for egress
                assert isinstance(answer, ServiceDatagram)
                assert answer.off >= 64
                ends = Ends.of(answer.key)
                record = {
                    "link": answer.link,
                    "guest": ends.guest_addr,
                    "guest_port": ends.guest_port,
                    "remote": ends.remote_addr,
                    "remote_port": ends.remote_port,
                    "off": answer.off,
                }
                payload = self.slots[answer.slot][answer.off : answer.off + answer.length]
                found.append((record, bytes(payload)))
                assert self.worker.pool is not None
                self.worker.pool.unref(answer.slot)
            self.from_stage.release(len(burst) // RECORD_BYTES)
        return found

    def reply(self) -> tuple[dict[str, int], bytes]:
        """The next reply, which must be the only one."""
        end = monotonic() + LIMIT
        while not (found := self.replies()):
            assert monotonic() < end, "no reply"
            self.breathe()
        assert len(found) == 1
        return found[0]

    def ask(self, name: str, rdtype: str = "A", **options: Any) -> dns.message.Message:
        """The answer to a guest's query over UDP."""
        self.send(query(name, rdtype, **options), 53)
        record, payload = self.reply()
        assert (record["link"], record["guest"], record["guest_port"]) == (3, GUEST, 4000)
        assert (record["remote"], record["remote_port"]) == (GATEWAY, 53)
        return dns.message.from_wire(payload)

    def count(self, name: str) -> int:
        return int(self.worker.counts[INDEX[name]])

    def request(self, message: dict[str, Any], fds: list[int] | None = None) -> dict[str, Any]:
        result = self.stage.on_control(message, fds or [])
        assert result is not None
        return result

    def connect(self, guest: str = "192.168.127.2:4000", link: int = 3) -> socket.socket:
        """Open a guest's DNS connection over TCP. Returns the guest's end."""
        ours, theirs = socket.socketpair()
        request = {"op": "serve_tcp", "guest": guest, "link": link}
        assert self.request(request, [theirs.detach()]) == {}
        ours.setblocking(False)
        return ours

    def close(self) -> None:
        """End as a worker does, and assert that nothing is left."""
        self.breathe()
        self.replies()
        self.stage.close()
        assert self.stage.held()["dns_connections"] == 0
        assert self.worker.pool is not None
        assert (self.worker.pool.refs_out, self.worker.pool.audit()) == (0, None)
        assert self.ingress.refs_out == self.given == 0
        assert self.worker.callbacks == {}
        self.worker.close()
        self.upstream.sock.close()


def query(name: str = "www.example.com", rdtype: str = "A", ident: int = 7, **options: Any) -> bytes:
    message = dns.message.make_query(name, rdtype, **options)
    message.id = ident
    return message.to_wire()


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def received(rig: Rig, sock: socket.socket, count: int = 1) -> list[dns.message.Message]:
    """The next ``count`` messages of a connection."""
    data = b""
    found: list[dns.message.Message] = []
    end = monotonic() + LIMIT
    while len(found) < count:
        assert monotonic() < end, "no answer"
        rig.breathe()
        try:
            data += sock.recv(65536)
        except BlockingIOError:
            continue
        while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
            length = int.from_bytes(data[:2], "big")
            found.append(dns.message.from_wire(data[2 : 2 + length]))
            data = data[2 + length :]
    assert data == b""
    return found


def is_closed(rig: Rig, sock: socket.socket) -> bool:
    rig.breathe()
    try:
        return sock.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def texts(message: dns.message.Message) -> list[str]:
    return [row.to_text() for rrset in message.answer for row in rrset]
