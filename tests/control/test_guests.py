"""The sums of each guest over all workers."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pipeline.control.guests import GuestSums
from pipeline.ipc import messages


def test_sums_of_workers_are_added_for_each_guest() -> None:
    answers = {
        "ingress": messages.GuestsAnswer.of({"links": {3: 2, 11: 1}}, {3: "process 12"}),
        "egress0": messages.GuestsAnswer.of({"sockets": {3: 5, 4: 1}}),
        "egress1": messages.GuestsAnswer.of({"sockets": {3: 7}}),
    }

    async def request(worker: str, op: messages.Request, fds: Sequence[Any] = ()) -> dict[str, Any]:
        assert op == messages.Guests()
        return answers[worker].encode()

    found = asyncio.run(GuestSums(request, answers, {"forwards": lambda: {11: 4}}).all())
    assert found == [
        {"guest": 3, "peer": "process 12", "forwards": 0, "links": 2, "sockets": 12},
        {"guest": 4, "peer": "", "forwards": 0, "links": 0, "sockets": 1},
        {"guest": 11, "peer": "", "forwards": 4, "links": 1, "sockets": 0},
    ]
