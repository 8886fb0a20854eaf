"""The scripts of examples/: QEMU for real, other machine monitors played."""

import os
import shlex
from pathlib import Path

import pytest

from tests.support import examples, qemu, vm
from tests.support.examples import Script
from tests.support.netns import wait_for

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ip link set lo up
udhcpc -i eth0 -f -q -n -t 10 -T 1 -s /udhcpc.sh
ip -4 address show eth0
ping -c 1 -W 5 192.168.127.1
echo the machine is done
poweroff -f
"""
"""A machine that shows its network and switches itself off."""
APPEND = "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check ipv6.disable=1"
RUN_SECONDS = 120.0


@pytest.mark.vm
@pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "available")
def test_qemus_script_boots_a_machine_on_a_network_of_its_own(tmp_path: Path) -> None:
    kernel = vm.kernel()
    assert kernel is not None
    archive = tmp_path / "initrd.gz"
    archive.write_bytes(vm.initrd({"init": INIT.encode()}))
    script = examples.copied("qemu", tmp_path) / "run.sh"
    newest = shlex.join(qemu.found()[-1].command)
    env = examples.programs(tmp_path / "bin", {"qemu-system-x86_64": f'exec {newest} "$@"'})
    env |= {"SSH_PORT": str(examples.free_port()), "ACCEL": "tcg"}
    words = ("-m", "256", "-display", "none", "-serial", "stdio", "-no-reboot", "-append", APPEND)
    with Script(script, *words, "-kernel", kernel.image, "-initrd", archive, env=env) as running:
        assert running.process.wait(RUN_SECONDS) == 0, running.text()
    text = running.text()
    assert "inet 192.168.127.2/24" in text
    assert "1 packets received" in text
    (api,) = (line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("the API of"))
    assert not Path(api).parent.exists(), "the script removes its directory"


@pytest.mark.parametrize(
    ("name", "words"), [("krunkit", ("disk.raw",)), ("firecracker", ())], ids=["krunkit", "firecracker"]
)
def test_a_script_gives_its_monitor_a_network(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    script = examples.copied(name, tmp_path) / "run.sh"
    env = examples.programs(tmp_path / "bin", examples.played_monitor(name))
    env |= {"SSH_PORT": str(examples.free_port())}
    with Script(script, *words, env=env) as running:
        assert running.process.wait(RUN_SECONDS) == 0, running.text()
    assert "offered 192.168.127.2\n" in running.text()
    assert not list(script.parent.glob("v.sock*")), "no socket is left"


@pytest.mark.parametrize("name", ["qemu", "krunkit", "firecracker", "nitro-enclave"])
def test_a_script_ends_when_its_network_cannot_start(name: str, tmp_path: Path) -> None:
    script = examples.copied(name, tmp_path) / "run.sh"
    monitors = dict.fromkeys(
        ("qemu-system-x86_64", "krunkit", "firecracker", "nitro-cli"), "echo started; exec sleep 99"
    )
    env = examples.programs(tmp_path / "bin", {**monitors, "gvtap-pipeline": "echo no network >&2; exit 1"})
    with Script(script, "image", env=env) as running:
        assert running.process.wait(RUN_SECONDS) != 0
    assert "no network\n" in running.text()
    assert "started" not in running.text()


def test_ctrl_c_ends_script_monitor_and_network(tmp_path: Path) -> None:
    script = examples.copied("krunkit", tmp_path) / "run.sh"
    env = examples.programs(tmp_path / "bin", {"krunkit": "echo started; exec sleep 99"})
    env |= {"SSH_PORT": str(examples.free_port())}
    with Script(script, "disk.raw", env=env) as running:
        wait_for(lambda: "started\n" in running.text(), "the monitor starts", 30.0)
    assert running.process.returncode == 130
    assert '"event": "stopped"' in running.text()
    with pytest.raises(ProcessLookupError):
        os.killpg(running.process.pid, 0)
