"""The picture of top in the documents: it is that of the screen, and needs nothing from elsewhere."""

import asyncio
import html
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("screenshot", ROOT / ".ci" / "screenshot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn() -> str:
    picture: str = asyncio.run(script().draw())
    return picture


def words(picture: str) -> list[str]:
    """The words of a picture, whatever font and places they have."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    return html.unescape(" ".join(texts)).split()


def test_the_committed_picture_shows_todays_screen(drawn: str) -> None:
    committed = words((ROOT / "docs" / "top.svg").read_text())
    assert "mirror.example.org:443" in committed
    assert committed == words(drawn), "run make picture"


def test_the_picture_is_the_same_at_each_run(drawn: str) -> None:
    assert asyncio.run(script().draw()) == drawn


def test_the_picture_loads_nothing(drawn: str) -> None:
    assert re.findall(r"url\((?!#)[^)]*\)|href=|@font-face|@import", drawn) == []


@pytest.mark.parametrize("page", ["README.md", "docs/commands.md"])
def test_the_documents_show_it(page: str) -> None:
    found = re.findall(r"!\[[^]]+\]\(([^)]*top\.svg)\)", (ROOT / page).read_text())
    assert [(ROOT / page).parent / each for each in found] == [ROOT / "docs" / "top.svg"]
