"""Forwards of UDP where the setting ``disable`` has udp."""

import asyncio

import pytest

from pipeline.control.forward_texts import ForwardError
from pipeline.control.forwarder import Forwarder
from tests.control.endpoint import Workers


@pytest.mark.parametrize("protocol", ["udp", "udp4", "udp6"])
def test_forwards_of_udp_are_refused_where_udp_is_switched_off(protocol: str) -> None:
    async def run() -> None:
        workers = Workers()
        made = Forwarder(workers, udp=False)
        with pytest.raises(ForwardError, match=r"^udp is switched off for guests \(disable: \[udp\]\)$"):
            await made.expose(protocol, ":53", "192.168.127.2:53")
        assert workers.asked == []
        await made.expose("tcp", ":53", "192.168.127.2:53")

    asyncio.run(run())
