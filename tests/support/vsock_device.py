"""vhost-device-vsock: the vsock card of a virtual machine, as a program of its own, without KVM.

The machine dials CID 2 (its host) and a port. The program then connects to the unix socket PATH_PORT, as
Firecracker and Cloud Hypervisor do in their own process. Only Debian from forky on has it. vm_fetch.py
unpacks it into the cache beside the libc that it was built for. It runs through that libc's loader, so
nothing is installed.
"""

import dataclasses
import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.netns import Namespace, wait_for
from tests.support.qemu import CACHE

PACKAGE = "vhost-device-vsock"
SUITE = "forky"
"""The first release of Debian that has it."""
GUEST_CID = 3
_LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
_LOADER = "ld-linux-x86-64.so.2"


@dataclasses.dataclass(frozen=True)
class Device:
    """The program in its unpacked packages."""

    tree: Path

    @property
    def command(self) -> list[str]:
        """The first words of its command line."""
        libraries = self.tree / _LIBRARIES
        program = self.tree / "usr" / "bin" / PACKAGE
        return [str(libraries / _LOADER), "--library-path", str(libraries), str(program)]


@functools.cache
def cached() -> Device | None:
    """The newest one in the cache that runs here."""
    for tree in sorted(CACHE.glob(f"{PACKAGE}-*"), reverse=True):
        if runs(device := Device(tree)):
            return device
    return None


def runs(device: Device) -> bool:
    """Whether the program starts on this machine."""
    try:
        done = subprocess.run([*device.command, "--version"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def missing() -> str:
    """Why there is none; "" if there is one."""
    return "" if cached() else f"no {PACKAGE} in {CACHE} (make machine)"


@contextmanager
def running(namespace: Namespace, directory: Path) -> Iterator[tuple[Path, list[str]]]:
    """Run the device. Yields PATH, and the words of QEMU's command line that give a machine this card.

    The machine's memory must be shared with the device: see shared_memory().
    """
    device = cached()
    assert device is not None
    control, path = directory / "vsock-control.sock", directory / "v.sock"
    words = f"guest-cid={GUEST_CID},uds-path={path},socket={control}"
    process = namespace.popen([*device.command, "--vm", words], stdout=subprocess.DEVNULL)
    try:
        wait_for(control.exists, "the vsock device")
        card = (
            "-chardev",
            f"socket,id=vsock,path={control}",
            "-device",
            "vhost-user-vsock-pci,chardev=vsock",
        )
        yield path, [*card]
    finally:
        process.terminate()
        process.wait(10)
        for left in (control, path):
            left.unlink(missing_ok=True)


def shared_memory(mebibytes: int) -> list[str]:
    """The words of QEMU's command line that share the machine's memory, which must be that large."""
    backend = f"memory-backend-memfd,id=ram,size={mebibytes}M,share=on"
    return ["-object", backend, "-machine", "memory-backend=ram"]


def name_of(archive: Path) -> str:
    """The directory in the cache for a package file: NAME_VERSION_ARCHITECTURE.deb."""
    return "-".join(os.fspath(archive.name).split("_")[:2])
