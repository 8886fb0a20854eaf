"""A running daemon's metrics: over TCP, over a unix socket and over the API."""

import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.control.metrics.families import SUPERVISOR, WORKERS, writers
from pipeline.topology import Layout
from tests.support.lone_daemon import LoneDaemon
from tests.support.metrics import counted, promtool, samples
from tests.support.netns import wait_for

MAC = "5a:94:ef:e4:0c:ee"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneDaemon]:
    with LoneDaemon(tmp_path_factory.mktemp("daemon"), "-metrics", "127.0.0.1:0") as made:
        yield made


def address(daemon: LoneDaemon) -> int:
    """The port that the daemon's log reports."""
    (line,) = [line for line in map(json.loads, daemon.errors().splitlines()) if line["event"] == "metrics"]
    found = re.fullmatch(r"tcp://127\.0\.0\.1:([1-9]\d+)", line["url"])
    assert found
    return int(found[1])


def get(daemon: LoneDaemon, path: str, method: str = "GET", host: str = "") -> tuple[int, str]:
    """Status and text of a request to the endpoint for metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", address(daemon), timeout=20)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_promtool_has_nothing_to_say_about_a_running_daemon(daemon: LoneDaemon) -> None:
    assert promtool("check", "metrics", text=get(daemon, "/metrics")[1]) == ""


def test_the_page_has_a_few_hundred_samples(daemon: LoneDaemon) -> None:
    _, text = get(daemon, "/metrics")
    assert 300 < len(samples(text)) < 600
    roles = {node.name: node.role for node in Layout(64).nodes} | {SUPERVISOR: SUPERVISOR}
    for name, values in counted(text).items():
        assert {roles[worker] for worker in values} == set(writers(name)), name


def test_each_process_is_there(daemon: LoneDaemon) -> None:
    found = samples(get(daemon, "/metrics")[1])
    workers = {dict(labels)["worker"] for name, labels in found if name == "process_resident_memory_bytes"}
    assert len(workers) == len(WORKERS) + 1
    assert min(found["process_cpu_seconds_total", frozenset({("worker", each)})] for each in workers) >= 0


def test_the_endpoint_is_read_only_and_knows_no_api(daemon: LoneDaemon) -> None:
    assert get(daemon, "/healthz") == (200, "ok\n")
    assert json.loads(get(daemon, "/version")[1])["data_path"] in ("plain", "compiled")
    assert get(daemon, "/services/forwarder/all")[0] == 404
    assert get(daemon, "/metrics", "POST")[0] == 405


def test_names_of_other_hosts_are_refused(daemon: LoneDaemon) -> None:
    assert get(daemon, "/metrics", host="rebound.example")[0] == 403
    assert get(daemon, "/metrics", host=f"localhost:{address(daemon)}")[0] == 200


def test_the_api_shows_the_same_page(daemon: LoneDaemon) -> None:
    answer = daemon.ask(b"GET /metrics HTTP/1.0\r\n\r\n").decode()
    assert answer.startswith("HTTP/1.0 200 ")
    assert "text/plain; version=0.0.4" in answer
    assert {name for name, _ in samples(answer.partition("\r\n\r\n")[2])} == {
        name for name, _ in samples(get(daemon, "/metrics")[1])
    }


def test_a_guest_has_series_by_its_mac_address_while_it_is_there(daemon: LoneDaemon) -> None:
    frame = bytes.fromhex("ffffffffffff") + bytes.fromhex(MAC.replace(":", "")) + b"\x08\x06" + bytes(46)
    name, labels = "gvtap_guest_bytes_total", frozenset({("guest", MAC), ("direction", "from_guest")})

    def size() -> float | None:
        return samples(get(daemon, "/metrics")[1]).get((name, labels))

    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(daemon.socket))
        guest.sendall(b"POST /connect HTTP/1.1\r\nHost: x\r\n\r\n")
        guest.sendall(len(frame).to_bytes(2, "little") + frame)
        wait_for(lambda: size() == len(frame), "the guest's bytes are counted", 10)
    wait_for(lambda: size() is None, "the series is gone with the guest", 10)


@pytest.mark.parametrize("worker", ["resolver", "demux"])
def test_a_worker_that_hangs_makes_the_daemon_unwell_and_leaves_the_metrics(
    daemon: LoneDaemon, worker: str
) -> None:
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    hung = int(children[list(Layout(64).names).index(worker)])
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(daemon.socket))
        guest.sendall(b"POST /connect HTTP/1.1\r\nHost: x\r\n\r\n")
        links = "gvtap_links", frozenset({("worker", "ingress")})
        wait_for(lambda: samples(get(daemon, "/metrics")[1])[links] == 1, "the guest is there", 10)
        os.kill(hung, signal.SIGSTOP)
        try:
            assert get(daemon, "/healthz") == (503, f"workers that do not answer: {worker}\n")
            status, text = get(daemon, "/metrics")
        finally:
            os.kill(hung, signal.SIGCONT)
    assert (status, samples(text)[links]) == (200, 1)
    wait_for(lambda: get(daemon, "/healthz") == (200, "ok\n"), "it is well again", 10)


def test_a_unix_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with LoneDaemon(tmp_path, "-metrics", f"unix://{path}") as daemon:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with sock.makefile("rb") as answer:
                assert b"gvtap_build_info{" in answer.read()
        assert "can read the metrics" not in daemon.errors()
    assert not path.exists()


def test_an_address_for_everyone_is_a_warning(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path, "-metrics", "0.0.0.0:0") as daemon:
        assert "everyone who reaches this address can read the metrics" in daemon.errors()


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = LoneDaemon(tmp_path, "-metrics", f"127.0.0.1:{port}")
        assert f"listen tcp 127.0.0.1:{port}: bind: address already in use" in daemon.refusal()
