"""Files of a capture: their bounds, and what a ring keeps."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.client import files
from pipeline.client.files import Ring, Stream
from pipeline.wire import pcapng
from tests.support.live_capture import read

HEAD = pcapng.section_header("gvtap-pipeline") + pcapng.interface_description("link1", "", b"", 65535)


def packet(number: int, size: int = 500) -> bytes:
    frame = number.to_bytes(2, "big") + bytes(size)
    return b"".join(pcapng.enhanced_packet(0, number, frame, 65535, pcapng.INBOUND, 0, ""))


def numbers(path: Path) -> list[int]:
    return [int.from_bytes(each.data[:2], "big") for each in read(path.read_bytes()).packets]


@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 3000), max_size=20))
def test_a_ring_keeps_the_last_files_and_cuts_no_block(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("ring")
    data = HEAD + b"".join(packet(number) for number in range(40))
    ring = Ring(str(directory / "trace.pcapng"), 4096, 3)
    for cut in cuts:
        ring.write(data[:cut])
        data = data[cut:]
    ring.write(data)
    ring.close()
    names = sorted(directory.iterdir())
    assert len(names) == 3
    kept = [number for name in names for number in numbers(name)]
    assert kept == list(range(kept[0], 40))
    for name in names:
        assert name.stat().st_size <= 4096 + len(HEAD)
        assert read(name.read_bytes()).interfaces == ["link1"]


def test_an_interface_that_comes_later_is_in_every_later_file(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "trace"), 4096, 0)
    ring.write(HEAD + packet(1, 3500))
    ring.write(pcapng.interface_description("link2", "", b"", 65535) + packet(2, 3500))
    ring.close()
    assert [name.name for name in sorted(tmp_path.iterdir())] == ["trace.00001", "trace.00002"]
    assert read((tmp_path / "trace.00002").read_bytes()).interfaces == ["link1", "link2"]


def test_a_block_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "trace"), 4096, 0)
    ring.write(HEAD + packet(1) + packet(2)[:-1])
    ring.close()
    assert numbers(tmp_path / "trace.00001") == [1]


@pytest.mark.parametrize("length", [5, 1 << 30])
def test_what_is_no_capture_is_an_error(tmp_path: Path, length: int) -> None:
    ring = Ring(str(tmp_path / "trace"), 4096, 0)
    with pytest.raises(pcapng.BlockError):
        ring.write(b"\x06\0\0\0" + length.to_bytes(4, "little"))
    ring.close()


def test_a_file_is_new_and_of_its_owner_alone(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "trace"
    other.write_text("stays")
    path.symlink_to(other)
    stream = Stream(files.open_capture(str(path)))
    stream.write(b"capture")
    stream.close()
    assert (path.read_bytes(), other.read_text()) == (b"capture", "stays")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("500k", 500_000), ("64M", 64_000_000), ("2G", 2_000_000_000)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert files.size(text) == size


@pytest.mark.parametrize("text", ["", "0", "4095", "1T", "64m", "-1", "1.5M", "M"])
def test_a_wrong_size_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is wrong"):
        files.size(text)


def test_all_bytes_are_written_to_a_pipe() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, True)
    files.write_all(writer, b"x" * 1000)
    assert os.read(reader, 2000) == b"x" * 1000
    os.close(reader)
    os.close(writer)


def test_a_reader_that_leaves_a_pipe_is_noticed_before_anything_is_written() -> None:
    reader, writer = os.pipe()
    left = threading.Event()
    stream = Stream(writer)
    stream.watch(left.set)
    assert not left.wait(0.05)
    os.close(reader)
    assert left.wait(10)
    stream.close()


def test_a_file_has_no_reader_that_could_leave(tmp_path: Path) -> None:
    before = threading.active_count()
    stream = Stream(files.open_capture(str(tmp_path / "trace")))
    stream.watch(lambda: pytest.fail("nobody has left"))
    assert threading.active_count() == before
    stream.close()
