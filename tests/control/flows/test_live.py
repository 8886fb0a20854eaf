"""Flows from played workers: collected in small parts, completed, filtered, sorted and ended."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

from pipeline.control.flows import live
from pipeline.control.flows.live import LiveFlows
from pipeline.control.flows.query import read
from pipeline.ipc import messages
from pipeline.ipc.flow_rows import IN, OUT, FlowRow

GUEST = "192.168.127.2"


def row(number: int, **fields: Any) -> FlowRow:
    begin = FlowRow(number, "tcp", OUT, 3, GUEST, 40000, "1.2.3.4", 443, "established", 1.0, 0.5)
    return begin._replace(**fields)


class Played:
    """Workers with rows; what was asked of them."""

    def __init__(self, **rows: list[FlowRow]) -> None:
        self.rows = {worker: {each.number: each for each in found} for worker, found in rows.items()}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.names = {(GUEST, "1.2.3.4"): "www.example.com"}

    async def __call__(self, worker: str, op: messages.Request, fds: Sequence[Any] = ()) -> dict[str, Any]:
        ask: dict[str, Any] = op.encode()
        self.asked.append((worker, ask))
        await asyncio.sleep(0)
        match ask["op"]:
            case "flow_ids":
                return {"numbers": list(self.rows[worker])}
            case "flows":
                of = self.rows[worker]
                return {"flows": [list(of[number]) for number in ask["numbers"] if number in of]}
            case "end_flow":
                return {"found": self.rows[worker].pop(ask["number"], None) is not None}
            case "neighbors":
                return {"neighbors": {GUEST: ["5a:94:ef:e4:0c:ee", 3]}}
        return {"names": [self.names.get((guest, host), "") for guest, host in ask["pairs"]]}

    def flows(self) -> LiveFlows:
        return LiveFlows(self, ("tcp0",), ("egress0",))

    def find(self, *pairs: tuple[str, str]) -> tuple[list[dict[str, object]], int]:
        return asyncio.run(self.flows().find(read(pairs)))


def test_a_flow_gets_the_mac_of_its_guest_and_the_name_of_the_host() -> None:
    udp = row(5, protocol="udp", guest=0, direction=IN, address="9.9.9.9", bytes_to_guest=7)
    found, total = Played(tcp0=[row(9, connect=0.25)], egress0=[udp]).find()
    assert total == 2
    (first, second) = found
    assert (first["id"], first["guest"], first["name"]) == ("egress0-5", 3, None)
    assert (second["id"], second["guest_mac"]) == ("tcp0-9", "5a:94:ef:e4:0c:ee")
    assert (second["name"], second["connect_seconds"]) == ("www.example.com", 0.25)
    assert second["min_rtt_seconds"] is second["retransmissions"] is None


def test_a_worker_is_asked_for_few_flows_at_a_time() -> None:
    played = Played(tcp0=[row(number + 1) for number in range(1000)], egress0=[])
    found, total = played.find(("limit", "10"))
    assert (len(found), total) == (10, 1000)
    parts = [len(ask["numbers"]) for _, ask in played.asked if ask["op"] == "flows"]
    assert sum(parts) == 1000
    assert max(parts) == live.ROWS_A_REQUEST


def test_flows_beyond_the_limit_do_not_stay() -> None:
    rows = [row(number + 1, bytes_from_guest=number) for number in range(2000)]

    async def run() -> int:
        played = Played(tcp0=rows, egress0=[])
        most = 0

        async def count(worker: str, op: messages.Request, fds: Sequence[Any] = ()) -> dict[str, Any]:
            nonlocal most
            most = max(
                most, sum(1 for each in gc.get_objects() if type(each) is dict and "idle_seconds" in each)
            )
            return await played(worker, op, fds)

        found, total = await LiveFlows(count, ("tcp0",), ("egress0",)).find(read([("limit", "3")]))
        assert ([flow["id"] for flow in found], total) == (["tcp0-2000", "tcp0-1999", "tcp0-1998"], 2000)
        return most

    assert asyncio.run(run()) <= 3 + live.ROWS_A_REQUEST


def test_clients_of_the_api_take_turns() -> None:
    async def run() -> list[str]:
        played = Played(tcp0=[row(number + 1) for number in range(600)], egress0=[])
        flows = played.flows()
        await asyncio.gather(*(flows.find(read([])) for _ in range(3)))
        return [ask["op"] for _, ask in played.asked]

    ops = asyncio.run(run())
    one = ops[: len(ops) // 3]
    assert ops == one * 3


def test_only_workers_that_may_have_the_protocol_are_asked() -> None:
    for protocol, worker in (("tcp", "tcp0"), ("udp", "egress0"), ("icmp", "egress0")):
        played = Played(tcp0=[], egress0=[])
        played.find(("protocol", protocol))
        assert {name for name, ask in played.asked if ask["op"] == "flow_ids"} == {worker}


def test_the_greatest_comes_first() -> None:
    rows = [
        row(1, bytes_from_guest=5, age=9.0, idle=1.0),
        row(2, bytes_from_guest=4, bytes_to_guest=4, age=1.0, idle=0.5),
        row(3, age=4.0, idle=3.0),
    ]
    for sort, numbers in (("bytes", [2, 1, 3]), ("age", [1, 3, 2]), ("idle", [3, 1, 2])):
        found, _ = Played(tcp0=rows, egress0=[]).find(("sort", sort))
        assert [flow["id"] for flow in found] == [f"tcp0-{number}" for number in numbers]


def test_an_id_ends_its_flow_once() -> None:
    async def run() -> list[bool]:
        flows = Played(tcp0=[row(9)], egress0=[]).flows()
        names = [
            "tcp0-9",
            "tcp0-9",
            "tcp0--9",
            "tcp0-",
            "tcp1-9",
            "9",
            "",
            "demux-1",
            f"tcp0-{10**30}",
            "tcp0-٣",
        ]
        return [await flows.end(name) for name in names]

    assert asyncio.run(run()) == [True] + [False] * 9
