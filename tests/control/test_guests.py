"""The sums of each guest over all workers."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.control.guests import KINDS, GuestSums
from pipeline.ipc import messages


def test_sums_of_workers_are_added_for_each_guest() -> None:
    answers = {
        "ingress": replace(
            messages.GuestsAnswer.of({"links": {3: 2, 11: 1}}, {3: "process 12"}),
            own={"11": {"240.0.5.1": "192.168.127.9"}},
        ),
        "demux": messages.GuestsAnswer({}, macs={"3": ["5a:94:ef:e4:0c:ee"]}, ips={"11": ["192.168.127.9"]}),
        "egress0": messages.GuestsAnswer.of({"sockets": {3: 5, 4: 1}}),
        "egress1": messages.GuestsAnswer.of({"sockets": {3: 7}}),
    }

    async def request(worker: str, op: messages.Request, fds: Sequence[Any] = ()) -> dict[str, Any]:
        assert op == messages.Guests()
        return answers[worker].encode()

    found = asyncio.run(GuestSums(request, answers, {"forwards": lambda: {11: 4}}).all())
    names: dict[str, Any] = dict.fromkeys(KINDS, 0) | {
        "opened_by": "",
        "mac_addresses": [],
        "ip_addresses": [],
    }
    known = dict.fromkeys(KINDS, 0) | {
        "opened_by": "process 12",
        "mac_addresses": ["5a:94:ef:e4:0c:ee"],
        "ip_addresses": [],
    }
    assert found == [
        {"guest": 3, **known, "forwards": 0, "links": 2, "sockets": 12},
        {"guest": 4, **names, "forwards": 0, "links": 0, "sockets": 1},
        {
            "guest": 11,
            **names,
            "ip_addresses": ["192.168.127.9"],
            "forwards": 4,
            "links": 1,
            "sockets": 0,
            "own_addresses": {"240.0.5.1": "192.168.127.9"},
        },
    ]
