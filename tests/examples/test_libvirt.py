"""examples/libvirt: libvirt takes the files, and boots machines with them.

virsh has libvirt's QEMU driver in its own process (qemu:///embed), under another user than root. So no
libvirtd runs, and nothing of the system's libvirt is touched.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.test_monitors import APPEND, INIT
from tests.support import examples, vm
from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for

FILES = examples.EXAMPLES / "libvirt"
NOBODY = 65534
DRIVERS = tuple(Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so"))
RUN_SECONDS = 120.0
ITS_SOCKET = "/run/gvtap-pipeline/libvirt/qemu.sock"
ITS_PORT = "1234"

needs_libvirt = pytest.mark.skipif(
    not (DRIVERS and shutil.which("virsh") and os.geteuid() == 0),
    reason="needs root and virsh with its QEMU driver (.ci/packages ci)",
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory for the driver's files that another user can enter; pytest's own are closed to them."""
    made = Path("/tmp", f"gvtap-libvirt-{os.getpid()}")
    made.mkdir(mode=0o711)
    os.chown(made, NOBODY, NOBODY)
    (made / "etc").mkdir()
    (made / "etc" / "qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
    yield made
    for path in made.glob("run/qemu/*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)
    shutil.rmtree(made)


def virsh(folder: Path, *words: str) -> str:
    """Run a command of virsh. AssertionError with its words if it fails."""
    variables = [
        f"{name}={folder}" for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    ]
    user = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    argv = [*user, "env", *variables, "virsh", "-c", f"qemu:///embed?root={folder}", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bootable(name: str, folder: Path, socket_path: Path, port: int) -> Path:
    """The example's machine under TCG with a kernel instead of a disk, and with this network's socket."""
    kernel = vm.kernel()
    assert kernel is not None
    shutil.copyfile(kernel.image, folder / "vmlinuz")
    (folder / "initrd.gz").write_bytes(vm.initrd({"init": INIT.encode()}))
    text = (FILES / name).read_text()
    assert (ITS_SOCKET in text) != (f"port='{ITS_PORT}'" in text)
    ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")
    root = ET.fromstring(text.replace(ITS_SOCKET, str(socket_path)).replace(f"'{ITS_PORT}'", f"'{port}'"))
    root.set("type", "qemu")
    machine, devices = root.find("os"), root.find("devices")
    assert machine is not None
    assert devices is not None
    for tag, value in (("kernel", "vmlinuz"), ("initrd", "initrd.gz")):
        ET.SubElement(machine, tag).text = str(folder / value)
    ET.SubElement(machine, "cmdline").text = APPEND
    for tag in ("disk", "console"):
        found = devices.find(tag)
        assert found is not None
        devices.remove(found)
    ET.SubElement(ET.SubElement(devices, "serial", type="file"), "source", path=str(folder / "console.log"))
    path = folder / name
    ET.ElementTree(root).write(path)
    for each in folder.iterdir():
        os.chown(each, NOBODY, NOBODY)
    return path


@pytest.mark.skipif(
    not (shutil.which("virt-xml-validate") and shutil.which("xmllint")), reason="needs virt-xml-validate"
)
@pytest.mark.parametrize("name", ["domain.xml", "domain-tcp.xml"])
def test_libvirts_schema_takes_the_file(name: str) -> None:
    done = subprocess.run(["virt-xml-validate", FILES / name, "domain"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_libvirt
@pytest.mark.vm
@pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "available")
@pytest.mark.parametrize("name", ["domain.xml", "domain-tcp.xml"])
def test_a_machine_of_libvirt_gets_its_address(name: str, folder: Path, tmp_path: Path) -> None:
    sockets, port = folder / "network.sock", examples.free_port()
    flags = ("-listen-qemu", f"unix://{sockets}", "-link", f"qemu+tcp://127.0.0.1:{port}")
    with LoneDaemon(tmp_path, *flags):
        # user.conf has the daemon run as QEMU's user.
        os.chown(sockets, NOBODY, NOBODY)
        console = folder / "console.log"
        virsh(folder, "create", str(bootable(name, folder, sockets, port)))

        def text() -> str:
            return console.read_text(errors="replace") if console.exists() else ""

        wait_for(lambda: "the machine is done" in text(), "the machine is done", RUN_SECONDS, 0.2)
    assert re.search(r"inet 192\.168\.127\.\d+/24", text())
    assert "1 packets received" in text()
