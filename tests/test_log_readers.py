"""contrib/rsyslog, contrib/vector and contrib/fluent-bit read the log, where their programs are there."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.events.table import KINDS
from pipeline.wire import dhcp
from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for
from tests.support.raw_guest import GATEWAY, RawGuest

CONTRIB = Path(__file__).resolve().parent.parent / "contrib"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def program(name: str) -> str:
    """The path of a program. Skips the test where it is not installed."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def placed(name: str, directory: Path) -> Path:
    """An example that reads from and writes to a directory of the test."""
    text = (CONTRIB / name).read_text()
    made = directory / Path(name).name
    made.write_text(text.replace("/var/log/gvtap-pipeline", str(directory)))
    return made


def lease(directory: Path, log: Path) -> None:
    """A daemon writes its log while a guest gets a lease and leaves."""
    qemu = directory / "qemu.sock"
    with LoneDaemon(directory, "-listen-qemu", f"unix://{qemu}", "-log-file", str(log)):
        wait_for(qemu.exists, "the socket", 10)
        with RawGuest(qemu, 9) as guest:
            options = {dhcp.MESSAGE_TYPE: bytes((dhcp.REQUEST,)), dhcp.HOST_NAME: b"vm"}
            request = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 1, guest.mac, options))
            guest.send(guest.datagram(GATEWAY, 68, 67, request))
            wait_for(lambda: "lease given" in log.read_text(), "the lease", 10)
        wait_for(lambda: "guest disconnected" in log.read_text(), "the guest's end", 10)


def test_rsyslog_reads_the_log(tmp_path: Path) -> None:
    rsyslogd = program("rsyslogd")
    log = tmp_path / "network.log"
    lease(tmp_path, log)
    with log.open("a") as file:
        file.write(json.dumps({"level": "warning", "event": "limit reached", "kind": "limit-reached"}) + "\n")
    config = placed("rsyslog/gvtap-pipeline.conf", tmp_path)
    config.write_text(f'global(workDirectory="{tmp_path}")\n' + config.read_text())
    subprocess.run([rsyslogd, "-N1", "-f", config], check=True, capture_output=True)
    process = subprocess.Popen(
        [rsyslogd, "-n", "-f", config, "-i", tmp_path / "pid"], stderr=subprocess.DEVNULL
    )
    try:
        leases, problems = tmp_path / "leases.txt", tmp_path / "problems.json"
        wait_for(lambda: leases.exists() and leases.read_text(), "the lease", 20)
        _, kind, mac, address = leases.read_text().split()
        assert (kind, mac) == ("lease-given", "5a:94:ef:00:00:09")
        assert address.startswith("192.168.127.")
        wait_for(lambda: problems.exists() and problems.read_text(), "the warning", 20)
        assert '"kind": "limit-reached"' in problems.read_text()
    finally:
        process.terminate()
        process.wait(10)


def test_vector_takes_its_example(tmp_path: Path) -> None:
    config = placed("vector/gvtap-pipeline.yaml", tmp_path)
    subprocess.run([program("vector"), "validate", "--no-environment", config], check=True)


def test_fluent_bit_takes_its_example(tmp_path: Path) -> None:
    config = placed("fluent-bit/gvtap-pipeline.yaml", tmp_path)
    subprocess.run([program("fluent-bit"), "--dry-run", "-c", config], check=True)


def test_examples_name_files_as_the_others_do() -> None:
    for name in ("vector/gvtap-pipeline.yaml", "fluent-bit/gvtap-pipeline.yaml"):
        assert "/var/log/gvtap-pipeline/*.log" in str(yaml.safe_load((CONTRIB / name).read_text()))
    prefixes = {kind.partition("-")[0] for kind in KINDS}
    assert {"guest", "lease"} <= prefixes
