"""Draws docs/top.svg, the screen of gvtap-pipeline top with a played daemon: screenshot.py [FILE].

The picture is the same at each run, until the screen or textual changes.
"""

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.client.top.screen import Top  # noqa: E402
from tests.support.played_daemon import PlayedSource  # noqa: E402

SIZE: Final = (116, 14)
"""Columns and lines."""
_FONT: Final = re.compile(r"\s*@font-face\s*\{.*?\}", re.DOTALL)


async def draw() -> str:
    """The picture as SVG."""
    source = PlayedSource()
    app = Top(source, 2.0, source.clock)
    async with app.run_test(size=SIZE) as pilot:
        for _ in range(2):
            source.step()
            await pilot.pause()
        await pilot.press("down")
        await pilot.pause()
        picture = app.export_screenshot(title="gvtap-pipeline top", simplify=True)
    # The fonts would come from another site. The picture names a monospaced one as well.
    return _FONT.sub("", picture)


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "top.svg"
    file.write_text(asyncio.run(draw()).rstrip() + "\n")
