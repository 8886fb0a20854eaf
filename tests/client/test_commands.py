"""The commands capture and extcap, with an API that the test plays."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.client import api
from pipeline.wire import pcapng
from tests.support.fake_api import FakeApi
from tests.support.live_capture import read

CAPTURED = pcapng.section_header("gvtap-pipeline") + pcapng.interface_description("link1", "", b"", 65535)
CAM = {"5a:94:ef:e4:0c:ee": 1, "02:00:00:00:00:01": 2, "nonsense}{value=x": 3}
LEASES = {"192.168.127.2": "5a:94:ef:e4:0c:ee"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.delenv(api.VARIABLE, raising=False)
    made = FakeApi(tmp_path / "api.sock")
    made.body = CAPTURED
    made.says("/cam", CAM)
    made.says("/leases", LEASES)
    yield made
    made.close()


def test_capture_asks_for_what_its_flags_say(server: FakeApi, tmp_path: Path) -> None:
    out, token = tmp_path / "out", tmp_path / "token"
    token.write_text("secret\n")
    argv = ["-guest", "1", "-guest", "2", "--port=80", "-protocol", "tcp", "-host", "10.0.0.0/8", "-drops"]
    argv += ["-snaplen", "96", "-api-token-file", str(token)]
    assert cli.main(["capture", "-api", server.url, "-w", str(out), *argv]) == 0
    (head,) = server.requests
    query = "guest=1&guest=2&host=10.0.0.0%2F8&port=80&protocol=tcp&drops=1&snaplen=96"
    assert head.startswith(f"GET /capture?{query} HTTP/1.1\r\n")
    assert "Authorization: Bearer secret\r\n" in head
    assert read(out.read_bytes()).interfaces == ["link1"]


def test_the_api_is_that_of_the_configuration_or_of_the_environment(
    server: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"listen: ['vsock://:1024', '{server.url}']\n")
    assert cli.main(["capture", "-config", str(config), "-w", str(tmp_path / "a")]) == 0
    monkeypatch.setenv(api.VARIABLE, server.url)
    assert cli.main(["capture", "-w", str(tmp_path / "b")]) == 0
    assert len(server.requests) == 2


def test_the_api_may_be_on_tcp(tmp_path: Path) -> None:
    server = FakeApi(tmp_path, socket.AF_INET)
    server.body = CAPTURED
    assert cli.main(["capture", "-api", server.url, "-w", str(tmp_path / "a")]) == 0
    server.close()
    assert "Host: localhost\r\n" in server.requests[0], "an endpoint on TCP takes no other name"
    assert "User-Agent" not in server.requests[0]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "where is the daemon? Use -api URL (unix:///path, tcp://host:port), -config FILE or $GVTAP_API"),
        (["-api", "http://a"], "-api 'http://a' is wrong (allowed: unix:///path, tcp://host:port)"),
        (["-api", "tcp://a:x"], "-api 'tcp://a:x' is wrong (allowed: unix:///path, tcp://host:port)"),
        (["-api", "unix://"], "-api 'unix://' is wrong (allowed: unix:///path, tcp://host:port)"),
        (["-api", "unix:///no", "-w", "a"], "cannot ask the daemon at unix:///no: No such file"),
    ],
)
def test_what_is_wrong_is_said(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(api.VARIABLE, raising=False)
    assert cli.main(["capture", *argv]) == 1
    assert capsys.readouterr().err.startswith(f"gvtap-pipeline capture: {text}")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["-ring-size", "1M"], "-ring-size needs -w FILE"),
        (["-w", "a", "-ring-files", "2"], "-ring-files needs -ring-size"),
        (["-w", "a", "-ring-files", "-1"], "-ring-files -1 is wrong (allowed: 1 and more, 0 to keep all)"),
        (["-w", "a", "-ring-size", "9"], "-ring-size '9' is wrong (allowed: a size of"),
    ],
)
def test_flags_of_files_that_do_not_fit_are_an_error_of_usage(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["capture", "-api", "unix:///no", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"gvtap-pipeline capture: {text}")


def test_a_file_that_cannot_be_written_is_named(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["capture", "-api", server.url, "-w", "/nowhere/a"]) == 1
    text = "gvtap-pipeline capture: cannot write /nowhere/a: No such file or directory\n"
    assert capsys.readouterr().err == text


def test_a_word_that_is_not_a_flag_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["capture", "-api", "unix:///no", "stop"]) == 2
    assert capsys.readouterr().err.startswith('unexpected argument "stop": a flag begins with a dash')


def test_the_text_of_a_refusal_is_shown_and_no_file_is_made(
    server: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status, server.body = "429 Too Many Requests", b"4 captures are running\n"
    assert cli.main(["capture", "-api", server.url, "-w", str(tmp_path / "a")]) == 1
    assert capsys.readouterr().err == "gvtap-pipeline capture: 4 captures are running\n"
    assert not (tmp_path / "a").exists()


def test_extcap_lists_all_guests_and_each(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extcap", "--extcap-interfaces", "--api", server.url]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "interface {value=gvtap}{display=gvtap: all guests}",
        "interface {value=gvtap-5a94efe40cee}{display=gvtap: guest 192.168.127.2, 5a:94:ef:e4:0c:ee}",
        "interface {value=gvtap-020000000001}{display=gvtap: guest 02:00:00:00:00:01}",
    ]


def test_extcap_names_a_guest_by_its_ipv4_address(
    server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    mac = "5a:94:ef:e4:0c:ee"
    server.says("/leases", {"2001:db8::1:5": mac, "192.168.127.2": mac, "fd00::1:5": "02:00:00:00:00:01"})
    assert cli.main(["extcap", "--extcap-interfaces", "--api", server.url]) == 0
    out = capsys.readouterr().out
    assert f"guest 192.168.127.2, {mac}" in out
    assert "guest fd00::1:5, 02:00:00:00:00:01" in out


def test_extcap_without_a_daemon_lists_one_interface(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(api.VARIABLE, raising=False)
    assert cli.main(["extcap", "--extcap-interfaces", "--extcap-version=4.2"]) == 0
    assert "gvtap: all guests" in capsys.readouterr().out


def test_extcap_names_link_type_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extcap", "--extcap-interface", "gvtap", "--extcap-dlts"]) == 0
    assert capsys.readouterr().out == "dlt {number=1}{name=EN10MB}{display=Ethernet}\n"
    assert cli.main(["extcap", "--extcap-interface", "gvtap", "--extcap-config", "--api", "unix:///a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("arg {number=0}{call=--api}{display=API}{type=string}")
    assert lines[0].endswith("{default=unix:///a}")


def test_extcap_captures_one_guest_into_the_fifo(server: FakeApi, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    argv = ["--extcap-interface", "gvtap-5a94efe40cee", "--capture", "--fifo", str(fifo), "--host", ""]
    assert cli.main(["extcap", "--api", server.url, *argv]) == 0
    assert server.requests[0].startswith("GET /capture?guest=5a%3A94%3Aef%3Ae4%3A0c%3Aee HTTP/1.1\r\n")
    assert read(fifo.read_bytes()).interfaces == ["link1"]


@pytest.mark.parametrize("name", ["", "eth0", "gvtap-", "gvtap-5a94efe40c", "gvtap-5a94efe40cee00"])
def test_extcap_refuses_an_interface_that_is_not_its_own(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["extcap", "--extcap-interface", name, "--extcap-dlts"]) == 1
    assert "unknown interface" in capsys.readouterr().err
