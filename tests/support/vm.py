"""Runs a virtual machine for tests: Debian's cloud kernel and a busybox initrd, in QEMU without KVM.

The machine has one virtio-net card and a serial console. Its init loads the drivers, brings lo up, and runs
the lines that come over the console. Machine.run("udhcpc ...") returns what the line printed. It boots in a
few seconds under TCG. The kernel is in the cache, ~/.cache/gvtap-pipeline/vm or $GVTAP_VM_CACHE. vm_fetch.py
fills the cache (`make machine`).
"""

import dataclasses
import gzip
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.support import qemu
from tests.support.netns import Namespace
from tests.support.qemu import CACHE, Qemu

MODULES = (  # in the order in which they are loaded
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
)
EXTRA_MODULES = (  # for tests that load them with Machine.load_extra_modules(), in this order
    "virtio_blk",
    "tun",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "vsock_loopback",
)
GUEST_MAC = "5a:94:ef:e4:0c:ee"
BOOT_SECONDS = 60.0  # an idle machine needs two or three

_READY = "vm-ready"
_STATUS = re.compile(r"vm-status (\d+)\n")

_INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
stty -echo
for module in $(cat /modules/order); do insmod /modules/$module.ko || echo "cannot load $module"; done
ip link set lo up
echo {_READY}
while read -r line; do
    eval "$line"
    echo "vm-status $?"
done
poweroff -f
"""

_UDHCPC_SCRIPT = """#!/bin/sh
case "$1" in
deconfig)
    ip address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound|renew)
    ip address flush dev "$interface"
    ip link set "$interface" ${mtu:+mtu "$mtu"} up
    ip address add "$ip/$mask" dev "$interface"
    [ -z "$router" ] || ip route replace default via "${router%% *}"
    : > /etc/resolv.conf
    [ -z "$search" ] || echo "search $search" >> /etc/resolv.conf
    for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
    ;;
esac
"""


class VmError(Exception):
    """The machine did not do what it should. The text has the end of its console output."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel in the cache, with its modules."""

    image: Path
    modules: Path


def kernel() -> Kernel | None:
    """The newest kernel in the cache."""
    for directory in sorted(CACHE.glob("linux-image-*"), reverse=True):
        if (directory / "vmlinuz").exists():
            return Kernel(directory / "vmlinuz", directory / "modules")
    return None


def missing() -> str:
    """Why no machine can boot here; "" if one can."""
    if platform.machine() != "x86_64":
        return f"the test machine is x86_64, this one {platform.machine()}"
    if qemu.missing():
        return qemu.missing()
    if _busybox() is None:
        return "needs a static busybox (apt-get install busybox-static)"
    if kernel() is None:
        return f"no kernel in {CACHE} (make machine)"
    return ""


def missing_modules() -> str:
    """Why the kernel in the cache cannot load EXTRA_MODULES; "" if it can."""
    kept = kernel()
    lacking = [name for name in EXTRA_MODULES if kept and not (kept.modules / f"{name}.ko").exists()]
    return f"the kernel in {CACHE} lacks {', '.join(lacking)} (make machine)" if lacking else ""


def _busybox() -> Path | None:
    """A busybox that runs without the system's libraries."""
    found = shutil.which("busybox")
    if found is None:
        return None
    # A dynamically linked program contains the name of its loader. A static one does not.
    return None if b"/ld-linux" in Path(found).read_bytes() else Path(found).resolve()


# --- initrd ---------------------------------------------------------------------------------


def initrd(files: dict[str, bytes]) -> bytes:
    """A gzipped cpio archive (newc) of directories, busybox, the modules, init and `files` (by path).

    A file of `files` replaces one of the same path.
    """
    kept, busybox = kernel(), _busybox()
    assert kept is not None
    assert busybox is not None
    content = {
        "bin/busybox": busybox.read_bytes(),
        "init": _INIT.encode(),
        "udhcpc.sh": _UDHCPC_SCRIPT.encode(),
    }
    content |= {f"modules/{path.name}": path.read_bytes() for path in kept.modules.iterdir()}
    content |= files
    directories = {"proc", "sys", "dev", "etc", "tmp", "www"}
    directories |= {str(parent) for name in content for parent in Path(name).parents if str(parent) != "."}
    out = io.BytesIO()
    serial = 0
    for name in sorted(directories):
        serial += 1
        _cpio_entry(out, serial, name, 0o040755, b"")
    for name, data in content.items():
        serial += 1
        _cpio_entry(out, serial, name, 0o100755, data)
    _cpio_entry(out, 0, "TRAILER!!!", 0, b"")
    return gzip.compress(out.getvalue(), 1)


def _cpio_entry(out: io.BytesIO, inode: int, name: str, mode: int, data: bytes) -> None:
    """One entry: magic, 13 fields of 8 hex digits, name and data each padded to 4 bytes (cpio(5), newc)."""
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
    out.write(b"\0" * (-out.tell() % 4))
    out.write(data)
    out.write(b"\0" * (-out.tell() % 4))


# --- the machine ----------------------------------------------------------------------------


class Machine:
    """One run of the virtual machine. QEMU runs in `namespace`, with the network `netdev` or without one."""

    def __init__(
        self,
        program: Qemu,
        namespace: Namespace,
        directory: Path,
        netdev: str,
        *,
        mac: str = GUEST_MAC,
        files: dict[str, bytes] | None = None,
        extra: Sequence[str] = (),
        ipv6: bool = False,
        mebibytes: int = 256,
    ) -> None:
        """netdev: the value of QEMU's -netdev, without id; "" for no card.

        files: contents by path in the machine. extra: further words of QEMU's command line. ipv6: whether the
        machine's kernel has IPv6. mebibytes: its memory.
        """
        self._mebibytes = mebibytes
        self._ipv6 = ipv6
        self._program = program
        self._namespace = namespace
        self._initrd = directory / "initrd.gz"
        self._initrd.write_bytes(initrd(files or {}))
        card = ["-netdev", f"{netdev},id=vlan", "-device", f"virtio-net-pci,netdev=vlan,mac={mac},romfile="]
        self._device = [*(card if netdev else ()), *extra]
        self._console = ""
        self._changed = threading.Condition()
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read_console, daemon=True)
        self.boot_seconds = 0.0

    def start(self) -> None:
        """Boot the machine. Returns when its init accepts commands. Raises VmError."""
        kept = kernel()
        assert kept is not None
        began = time.monotonic()
        argv = [*self._program.command, "-accel", "tcg", "-m", str(self._mebibytes)]
        argv += [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-kernel",
            str(kept.image),
            "-initrd",
            str(self._initrd),
        ]
        # On a busy machine, the kernel takes QEMU's timer for a broken one, and gives up.
        kernel_line = "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check"
        kernel_line += f" ipv6.disable={int(not self._ipv6)}"
        argv += ["-append", kernel_line, *self._device]
        self._process = self._namespace.popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader.start()
        self._wait(re.compile(rf"{_READY}\n"), 0, BOOT_SECONDS)
        self.boot_seconds = time.monotonic() - began

    def run(self, line: str, timeout: float = 60.0, check: bool = True) -> str:
        """Run a shell line in the machine. Returns its output. VmError if it hangs, or fails with check."""
        assert self._process is not None
        assert self._process.stdin is not None
        begin = len(self._console)
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        match = self._wait(_STATUS, begin, timeout, f"the end of {line!r}")
        output = self._console[begin : match.start()]
        if check and match[1] != "0":
            raise VmError(f"{line!r} ended with {match[1]}:\n{output}")
        return output

    def load_extra_modules(self) -> None:
        """Load EXTRA_MODULES."""
        self.run(
            "for module in " + " ".join(EXTRA_MODULES) + "; do insmod /modules/$module.ko || false; done"
        )

    def configure(self) -> None:
        """Configure eth0 with DHCP: address, route, MTU and resolv.conf."""
        self.run("udhcpc -i eth0 -f -q -n -t 10 -T 1 -s /udhcpc.sh")

    def stop(self) -> None:
        """End QEMU, if it still runs."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait(10.0)
        self._reader.join(10.0)

    def console(self) -> str:
        """Everything that the machine has printed."""
        return self._console

    def _wait(
        self, pattern: re.Pattern[str], begin: int, timeout: float, what: str = "the boot"
    ) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                match = pattern.search(self._console, begin)
                if match:
                    return match
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    reason = "QEMU ended" if self._ended else f"{timeout:.0f} s passed"
                    raise VmError(f"{reason} before {what}; the console:\n{self._console[-3000:]}")
                self._changed.wait(left)

    def _read_console(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while True:
            part = os.read(descriptor, 4096)
            with self._changed:
                self._ended = not part
                self._console += part.decode(errors="replace").replace("\r", "")
                self._changed.notify_all()
            if not part:
                return

    def __enter__(self) -> "Machine":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is not None:
            sys.stderr.write(self._console)
