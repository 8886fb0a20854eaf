"""An endpoint under test: the front with the API on a unix socket, over workers that only record."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog

from pipeline.config import merge, options
from pipeline.config.model import Quota
from pipeline.control.approvals import Approvals
from pipeline.control.facts import Facts, Process
from pipeline.control.flows.live import LiveFlows
from pipeline.control.forwarder import Forwarder
from pipeline.control.guests import GuestSums
from pipeline.control.http.access import Access
from pipeline.control.http.api import Api
from pipeline.control.http.approvals import ApprovalPaths
from pipeline.control.http.explainer import Explainer
from pipeline.control.http.front import Front, TakeOver
from pipeline.control.http.observation import Observation
from pipeline.control.http.policy import PolicyPaths
from pipeline.control.http.quotas import QuotaPaths
from pipeline.control.http.restart import Restart, RestartPath
from pipeline.control.http.runner import make_runner, server_of
from pipeline.control.http.takeover import CAPTURE, CONNECT, TUNNEL, Capture, Connect, Tunnel
from pipeline.control.hub import Hub
from pipeline.control.metrics.build import Build
from pipeline.control.metrics.page import Readings, Snapshot, page
from pipeline.control.quotas.keeper import QuotaKeeper
from pipeline.control.reload import LiveSettings
from pipeline.control.web.login import Login
from pipeline.control.web.site import Site
from pipeline.control.workers import RefusedError
from pipeline.counter_block import GuestRow
from pipeline.go import flags
from pipeline.ipc import messages
from pipeline.ipc.flow_rows import IN, OUT, FlowRow
from pipeline.topology import Edge

LOG = structlog.get_logger()
GUEST = "192.168.127.2:40000"
_TCP = FlowRow(7, "tcp", OUT, 3, "192.168.127.2", 40000, "93.184.216.34", 443, "established", 2.0, 0.5)
_IN = FlowRow(8, "udp", IN, 0, "192.168.127.2", 53, "127.0.0.1", 5353, "open", 1.0, 1.0)
NAMES = ("ingress", "demux", "tcp0", "egress0", "resolver", "listen")
ROWS = {
    7: list(_TCP._replace(bytes_from_guest=10, bytes_to_guest=99, connect=0.25, retransmissions=0)),
    8: list(_IN._replace(packets_from_guest=1)),
}
"""The flows of every tcp and every egress worker."""
QUOTAS = (Quota(per="day", total_bytes=100, connections=2),)


class Meter:
    """What /stats, /metrics, /healthz and /version show."""

    build = Build("1.2.3", "3.11.2", "plain")
    facts = Facts(
        started=0.0,
        processes=(Process("data", 12, ("ingress", "demux")), Process("side", 13, ("resolver",))),
        placement="auto",
        subnet="192.168.127.0/24",
        mtu=1500,
        gateway="192.168.127.1",
        guest="192.168.127.2",
        host="192.168.127.254",
        endpoints=(("listen", "unix:///tmp/network.sock"),),
    )

    def __init__(self, counts: Snapshot | None = None, silent: Sequence[str] = ()) -> None:
        self.counts = counts or {}
        self.silent = list(silent)

    def counters(self) -> Snapshot:
        return self.counts

    async def page(self) -> bytes:
        return page(Readings(self.build, {}, self.counts))

    def rings(self) -> dict[Edge, tuple[int, int]]:
        return {Edge("ingress", "demux", 1024, 64): (12, 3)}

    async def guest_rows(self) -> dict[str, GuestRow]:
        return {"5a:94:ef:e4:0c:ee": GuestRow(1, 1000, 10, 2000, 20, 5)}

    async def silent_workers(self) -> list[str]:
        return self.silent


class Workers:
    """Answers requests from a table {op: answer or exception}; what was asked is in `asked`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.socks: list[socket.socket] = []
        self.answers: dict[str, Any] = {
            "cam": {"cam": {"5a:94:ef:e4:0c:ee": 0, "02:00:00:00:00:01": 3}},
            "leases": {
                "leases": {"192.168.127.2": "5a:94:ef:e4:0c:ee", "192.168.127.1": "5a:94:ef:e4:0c:dd"}
            },
            "dns_all": {"zones": []},
            "flow_ids": lambda op: {"numbers": [7, 8]},
            "flows": lambda op: {"flows": [ROWS[number] for number in op["numbers"] if number in ROWS]},
            "end_flow": lambda op: {"found": op["number"] == 7},
            "neighbors": {"neighbors": {"192.168.127.2": ["5a:94:ef:e4:0c:ee", 3]}},
            "names": lambda op: {"names": ["www.example.com"] + [""] * (len(op["pairs"]) - 1)},
            "end_forbidden": {"ended": 2},
            "asks": {"asks": []},
            "decide": {"found": True},
            "explain": {"allowed": False, "rule": "egress-policy.default", "passed": []},
            "guests": {"guests": {"3": {"links": 1}}, "peers": {"3": "machine 12"}},
            "count": {"incarnation": 0, "rows": [["day", "guest 3", [10, 20, 1, 2], [0]]]},
        }

    async def __call__(
        self, worker: str, request: messages.Request, fds: Sequence[Any] = ()
    ) -> dict[str, Any]:
        op = request.encode()
        self.asked.append((worker, op))
        answer = self.answers.get(op["op"], {"ok": True})
        if callable(answer):
            answer = answer(op)
        if isinstance(answer, Exception):
            raise answer
        self.socks += [socket.socket(fileno=os.dup(sock.fileno())) for sock in fds]
        return answer


def refuse(text: str) -> Callable[[Any], Exception]:
    """A worker's answer that is an error."""
    return lambda _op: RefusedError(text)


class GuestFront(Front):
    """A front whose clients are connections of the guest GUEST."""

    def serve(self, sock: socket.socket, client: str | None = None, guest: int = 0) -> None:
        super().serve(sock, GUEST if client is None else client, guest)


class Endpoint:
    """What a test holds: where the endpoint listens, and both its sides."""

    def __init__(
        self,
        path: str,
        workers: Workers,
        front: Front,
        client: aiohttp.ClientSession,
        forwarder: Forwarder,
    ) -> None:
        self.path = path
        self.workers = workers
        self.front = front
        self.client = client
        self.forwarder = forwarder

    async def call(self, method: str, target: str, body: str | bytes | None = None) -> tuple[int, str]:
        """Status and text of one request by aiohttp's client."""
        async with self.client.request(method, f"http://unix{target}", data=body) as answer:
            return answer.status, await answer.text()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A raw connection."""
        return await asyncio.open_unix_connection(self.path)

    async def raw(self, request: bytes, *, half_close: bool = False) -> bytes:
        """Everything that comes back for these bytes until the other side closes."""
        reader, writer = await self.open()
        writer.write(request)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
        return answer


def observation(workers: Workers, hub: Hub | None = None) -> Observation:
    """Of these workers. hub: by default one that no worker reports to."""
    flows = LiveFlows(workers, ("tcp0",), ("egress0",))
    return Observation(hub or Hub(lambda _watch: None, LOG), flows, GuestSums(workers, ("ingress",), {}))


def live_settings(workers: Workers) -> LiveSettings:
    """Of a daemon that was started without a file."""
    config, _ = merge.build(flags.parse(options.START, ["-ssh-port", "-1"]), resolv_conf=os.devnull)
    channels: Any = SimpleNamespace(request=workers, channels=dict.fromkeys(NAMES))
    sockets: Any = None
    return LiveSettings(config, channels, Forwarder(workers), sockets, LOG)


def policy_paths(
    workers: Workers, hub: Hub | None = None, restart: Restart | None = None
) -> tuple[PolicyPaths, ApprovalPaths, QuotaPaths, RestartPath]:
    """The paths of the egress policy, of approvals, quotas and of a restart."""
    live = live_settings(workers)
    hub = hub or Hub(lambda _watch: None, LOG)
    explainer = Explainer(workers, GuestSums(workers, ("ingress",), {}))
    approvals = Approvals(workers, ("egress0", "egress1"), live, hub, LOG, lambda _link: True)
    quotas = QuotaKeeper(workers, NAMES, lambda: QUOTAS, hub, LOG)
    return (
        PolicyPaths(live, explainer, hub),
        ApprovalPaths(approvals),
        QuotaPaths(quotas, hub),
        RestartPath(lambda: restart),
    )


@contextlib.asynccontextmanager
async def endpoint(
    tmp_path: Path,
    *,
    guest: bool = False,
    connect: bool = True,
    browsers: bool = False,
    monitoring: bool = False,
    timeout: float = 10.0,
    max_connections: int = 64,
    meter: Meter | None = None,
    access: Access | None = None,
    hub: Hub | None = None,
    login: Login | None = None,
    restart: Restart | None = None,
) -> AsyncIterator[Endpoint]:
    """The endpoint, up for the time of the block.

    browsers: with the rules of an endpoint on TCP. monitoring: the one that has no API. login: the web page.
    """
    workers = Workers()
    forwarder = Forwarder(workers)
    api = Api(
        *(forwarder, workers, meter or Meter(), observation(workers, hub), LOG),
        access=access,
        policy=policy_paths(workers, hub, restart),
    )
    if login is not None:
        app = Site(api.access, login).application(api)
    elif monitoring:
        app = api.monitoring(browsers=browsers)
    else:
        app = api.guest() if guest else api.full(browsers=browsers)
    runner = make_runner(app)
    await runner.setup()
    take_overs: dict[str, TakeOver] = {}
    if not guest and login is None:
        take_overs[TUNNEL] = Tunnel(workers, LOG, access, browsers=browsers)
        take_overs[CAPTURE] = Capture(workers, LOG, access, browsers=browsers)
    if connect and not guest and login is None:
        take_overs[CONNECT] = Connect(workers, LOG, access, browsers=browsers)
    kind = GuestFront if guest else Front
    front = kind(server_of(runner), take_overs, LOG, timeout=timeout, max_connections=max_connections)
    path = str(tmp_path / "api.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    front.listen(listener)
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))
    try:
        yield Endpoint(path, workers, front, session, forwarder)
    finally:
        await session.close()
        await front.close()
        await runner.cleanup()
        listener.close()
        os.unlink(path)
        for sock in workers.socks:
            sock.close()
