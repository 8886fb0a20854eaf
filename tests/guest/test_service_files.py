"""The unit of the agent, and the files with which other programs configure its interface."""

import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.agent import FLAGS, options_from
from pipeline.go import flags
from tests.support.agent import Agent, address
from tests.support.daemon import Daemon
from tests.support.netns import Network, wait_for

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
UNIT = CONTRIB / "systemd" / "gvtap-guest.service"
PROFILE = CONTRIB / "NetworkManager" / "gvtap0.nmconnection"
NETWORK = CONTRIB / "networkd" / "80-gvtap-guest.network"
NETWORKD = Path("/lib/systemd/systemd-networkd")
RUN_NETWORKD = """
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /run/systemd/network
chown -R systemd-network:systemd-network /run/systemd/netif
mount --bind /sys /sys
mount -o remount,bind,ro /sys  # as in a container, where networkd does not wait for udev
cp "$1" /run/systemd/network/
SYSTEMD_LOG_TARGET=console exec "$2"
"""
MAC = "5a:94:ef:e4:0c:ee"


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(guest_count=1) as made:
        yield made


def lines(path: Path) -> configparser.ConfigParser:
    """A file of sections, as systemd and NetworkManager read it."""
    made = configparser.ConfigParser(strict=False, interpolation=None)
    made.optionxform = str  # type: ignore[assignment,method-assign]
    made.read_string(path.read_text())
    return made


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # The program need not be installed here. verify checks that it is.
    text = UNIT.read_text().replace("/usr/local/bin/gvtap-guest", sys.executable)
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("Documentation=man:gvtap-guest(1)\n", ""))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_agent_takes_the_flags_that_the_unit_names() -> None:
    named = re.findall(r"^# {3}(-\S+(?: \S+)*?) {2,}", UNIT.read_text(), re.MULTILINE)
    assert len(named) == 3
    for words in named:
        options_from(flags.parse(FLAGS, words.split()))


@pytest.mark.skipif(shutil.which("nmcli") is None, reason="needs nmcli (apt-get install network-manager)")
def test_networkmanager_takes_the_profile() -> None:
    argv = ["nmcli", "--offline", "connection", "modify", "connection.autoconnect", "yes"]
    done = subprocess.run(argv, input=PROFILE.read_text(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    kept = configparser.ConfigParser()
    kept.read_string(done.stdout)
    assert kept["connection"]["type"] == "tun"
    assert kept["tun"]["mode"] == "2"  # tap
    assert kept["ethernet"]["cloned-mac-address"].lower() == MAC
    assert kept["ipv4"]["method"] == "auto"


def test_profile_and_unit_name_the_same_interface() -> None:
    name = lines(PROFILE)["connection"]["interface-name"]
    assert f"-preexisting -iface {name} " in UNIT.read_text()


def test_networkd_configures_the_agents_interface() -> None:
    found = lines(NETWORK)
    assert found["Match"]["Name"] == options_from(flags.parse(FLAGS, ())).iface
    assert found["Network"]["DHCP"] == "ipv4"


@pytest.mark.e2e
@pytest.mark.skipif(not NETWORKD.exists(), reason="needs systemd-networkd")
def test_networkd_gets_the_agents_interface_its_address(network: Network, tmp_path: Path) -> None:
    script = tmp_path / "networkd.sh"
    script.write_text(RUN_NETWORKD)
    log = tmp_path / "networkd.log"
    with Daemon(network) as daemon, log.open("wb") as out:
        argv = ["unshare", "--mount", "sh", script, NETWORK, NETWORKD]
        networkd = network.guest.popen(argv, stdout=out, stderr=out)
        wait_for(lambda: "Enumeration completed" in log.read_text(), "networkd is ready")
        with Agent(network.guest, daemon.socket, "-dhcp", "none") as agent:
            assert address(agent.guest) == "192.168.127.2/24"
            network.guest.run("ping", "-c", "1", "-W", "5", "192.168.127.1")
        networkd.terminate()
        networkd.wait(10)
    # It would say so of a line that it does not know.
    assert f"{NETWORK.name}:" not in log.read_text()
