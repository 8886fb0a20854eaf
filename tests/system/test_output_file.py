"""Files to write into: their modes, what is refused, and what is never followed, emptied or removed."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.system import output_file


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask 000", "umask 022", "umask 077"], autouse=True)
def _mask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, data: bytes, **options: bool) -> None:
    fd = output_file.open_file(str(path), 0o644, **options)
    os.write(fd, data)
    os.close(fd)


@pytest.mark.parametrize("wanted", [0o600, 0o644])
def test_a_new_file_has_its_mode_under_any_umask(tmp_path: Path, wanted: int) -> None:
    path = tmp_path / "file"
    os.close(output_file.open_file(str(path), wanted))
    assert mode(path) == wanted


def test_an_existing_file_keeps_its_mode_and_is_emptied_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    write(path, b"+", append=True)
    assert path.read_text() == "old+"
    write(path, b"new", empty=True)
    assert path.read_text() == "new"
    assert mode(path) == 0o640


def test_a_symbolic_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic link, which is not followed") as caught:
        write(path, b"x", empty=True)
    assert caught.value.errno == errno.ELOOP
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(OSError, match="symbolic link"):
        write(path, b"x")
    assert target.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_a_link_that_appears_after_the_look_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_text("precious")
    path.symlink_to(target)
    monkeypatch.setattr(output_file, "_kind", lambda _path: stat.S_IFREG)
    with pytest.raises(OSError) as caught:
        write(path, b"x", empty=True)
    assert caught.value.errno == errno.ELOOP
    assert target.read_text() == "precious"


def test_a_file_with_a_second_name_is_refused(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_text("precious")
    os.link(target, path)
    with pytest.raises(OSError, match="second name"):
        write(path, b"x", empty=True)
    assert target.read_text() == "precious"


def test_a_directory_a_socket_and_a_disk_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write(tmp_path, b"x")
    if os.geteuid() == 0:
        os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
        with pytest.raises(OSError, match="of the wrong kind"):
            write(tmp_path / "disk", b"x")


def test_a_fifo_without_a_reader_never_blocks(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device") as caught:
        output_file.open_file(str(path), 0o644)
    assert caught.value.errno == errno.ENXIO
    fd = output_file.open_file(str(path), 0o644, read_fifo=True)
    assert os.get_blocking(fd)
    os.write(fd, b"x")
    os.close(fd)


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_path_of_a_descriptor_is_a_copy_of_it_and_empties_nothing(tmp_path: Path, form: str) -> None:
    path = tmp_path / "file"
    with path.open("wb", buffering=0) as file:
        file.write(b"begun ")
        fd = output_file.open_file(form.format(file.fileno()), 0o600, empty=True)
        os.write(fd, b"and continued")
        os.close(fd)
    assert path.read_bytes() == b"begun and continued"
    with pytest.raises(OSError, match="Bad file descriptor"):
        output_file.open_file(form.format(fd), 0o600)


def test_the_standard_streams_have_names() -> None:
    assert [output_file.descriptor(f"/dev/{name}") for name in ("stdout", "stderr")] == [1, 2]
    assert output_file.descriptor("/dev/null") is None
    assert output_file.descriptor("/dev/fd/../null") is None


def test_a_file_is_replaced_as_a_whole_and_half_of_an_earlier_write_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    (tmp_path / "state.new").write_text("half")
    output_file.replace(str(path), b"new", 0o600)
    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_failed_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "leases.json"
    path.write_text("old")
    monkeypatch.setattr(output_file.os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        output_file.replace(str(path), b"new", 0o600)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_fifo_in_the_place_of_the_new_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "leases.json.new")
    with pytest.raises(FileExistsError):
        output_file.replace(str(tmp_path / "leases.json"), b"new", 0o600)


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / "state", tmp_path / "target"
    path.write_text("old")
    target.write_text("precious")
    (tmp_path / "state.new").symlink_to(target)
    with pytest.raises(FileExistsError):
        output_file.replace(str(path), b"new", 0o600)
    assert (path.read_text(), target.read_text()) == ("old", "precious")
    assert (tmp_path / "state.new").is_symlink()


def test_a_file_system_without_modes_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    path = tmp_path / "file"
    os.close(output_file.create(str(path), 0o644))
    assert mode(path) & 0o077 == 0, "never wider than asked for"
