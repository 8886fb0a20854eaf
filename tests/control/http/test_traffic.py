"""/traffic: what each ring has carried, and each guest's link."""

import asyncio
import json
from pathlib import Path

from tests.control.endpoint import endpoint


def test_rings_and_guests_have_their_numbers(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            status, text = await at.call("GET", "/traffic")
        assert status == 200
        assert json.loads(text) == {
            "rings": [
                {"source": "ingress", "target": "demux", "records": 12, "waiting": 3, "capacity": 1024}
            ],
            "guests": [
                {
                    "mac": "5a:94:ef:e4:0c:ee",
                    "bytes_from_guest": 1000,
                    "frames_from_guest": 10,
                    "bytes_to_guest": 2000,
                    "frames_to_guest": 20,
                    "frames_dropped": 5,
                }
            ],
        }

    asyncio.run(run())
