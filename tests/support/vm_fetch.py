"""Downloads packages for the virtual machine of the tests into the cache, without installing them.

    python -m tests.support.vm_fetch

It gets Debian's cloud kernel (about 27 MB). If the installed QEMU is too old to reconnect, it also gets a
newer one from Debian's backports (about 14 MB). And it gets vhost-device-vsock from a later release, with the
libc that this needs (about 4 MB). All are only unpacked: nothing is installed or replaced, and apt's sources
do not change. Root is needed only if apt's lists were never fetched. Without work it prints nothing.
"""

import lzma
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support import private_apt, qemu, vsock_device
from tests.support.private_apt import UPDATE_SECONDS, FetchError, Mirror, mirror, run
from tests.support.qemu import CACHE, Qemu
from tests.support.vm import EXTRA_MODULES, MODULES, Kernel, kernel, missing_modules

META_PACKAGE = "linux-image-cloud-amd64"
QEMU_PACKAGE = "qemu-system-x86"


# --- kernel ---------------------------------------------------------------------------------


def fetch_kernel() -> Kernel:
    """Download the kernel into the cache."""
    package = _real_package()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as text:
        work = Path(text)
        run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, directory=work)
        (archive,) = work.glob("*.deb")
        run("dpkg-deb", "-x", str(archive), str(work / "tree"))
        result = work / "result"
        _keep_kernel(work / "tree", result)
        if (CACHE / package).exists():
            # It has too few modules. It goes with the directory `work`.
            (CACHE / package).rename(work / "old")
        result.rename(CACHE / package)
    found = kernel()
    assert found is not None
    return found


def _real_package() -> str:
    """The package on which the meta package depends now."""
    try:
        text = run("apt-cache", "depends", META_PACKAGE)
    except FetchError:
        text = ""
    names = re.findall(r"Depends: (linux-image-\S+)", text)
    if not names:
        raise FetchError(f"apt knows no {META_PACKAGE}")
    return str(names[0])


def _keep_kernel(tree: Path, result: Path) -> None:
    """Copy the image and the modules that the machine needs, uncompressed."""
    (result / "modules").mkdir(parents=True)
    (image,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copyfile(image, result / "vmlinuz")
    # Newer packages put /lib under /usr.
    found = {path.name.partition(".")[0]: path for path in tree.glob("**/kernel/**/*.ko*")}
    order = []
    for module in (*MODULES, *EXTRA_MODULES):
        # A file name may have dashes. A module without a file is built into the kernel.
        path = found.get(module) or found.get(module.replace("_", "-"))
        if path is None:
            continue
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        elif path.suffix != ".ko":
            raise FetchError(f"cannot decompress {path.name}")
        (result / "modules" / f"{module}.ko").write_bytes(content)
        if module in MODULES:
            order.append(module)
    (result / "modules" / "order").write_text(" ".join(order) + "\n")


# --- QEMU -----------------------------------------------------------------------------------


def fetch_qemu() -> Qemu:
    """Download and unpack QEMU from backports, with libraries that are not installed, into the cache."""
    source = mirror()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as text:
        work = Path(text)
        _download_qemu(source, work)
        tree = work / "tree"
        tree.mkdir()
        for archive in (work / "archives").glob("*.deb"):
            run("dpkg-deb", "-x", str(archive), str(tree))
        made = qemu.unpacked(tree)
        if made is None:
            raise FetchError(f"{QEMU_PACKAGE} of {source.backports} does not run here")
        if not made.reconnects:
            raise FetchError(f"{source.backports} has {made} only")
        _keep_qemu(tree)
        kept = CACHE / f"qemu-{made.version[0]}.{made.version[1]}"
        # The QEMU in the cache does not run any more, because a library of the system is gone.
        shutil.rmtree(kept, ignore_errors=True)
        tree.rename(kept)
    found = qemu.cached()
    assert found is not None
    return found


def _download_qemu(source: Mirror, work: Path) -> None:
    """Download the packages of an installation into work/archives."""
    private_apt.make(work)
    (work / "backports.list").write_text(source.source)
    system_list = Path("/etc/apt/sources.list")
    known = system_list.read_text() if system_list.exists() else ""
    (work / "sources.list").write_text(f"{known}\n{source.source}")
    # Use the lists that the system already has.
    lists = run("apt-config", "shell", "folder", "Dir::State::lists/d").partition("=")[2].strip().strip("'")
    for path in Path(lists).glob("*_dists_*"):
        (work / "lists" / path.name).symlink_to(path)
    apt = ("apt-get", "-q", "-y", "-c", str(work / "apt.conf"), "-o")
    if source.source:
        only = (f"Dir::Etc::sourcelist={work / 'backports.list'}", "-o", "Dir::Etc::sourceparts=/dev/null")
        run(*apt, *only, "update", timeout=UPDATE_SECONDS)
    package = f"{QEMU_PACKAGE}/{source.backports}"
    options = ("--no-install-recommends", "--download-only")
    run(*apt, f"Dir::Etc::sourcelist={work / 'sources.list'}", *options, "install", package)


def _keep_qemu(tree: Path) -> None:
    """Remove what the machine does not use. That is three quarters of it."""
    for path in (tree / "usr" / "bin").iterdir():
        if path.name != qemu.PROGRAM:
            path.unlink()
    for name in ("doc", "man", "icons", "applications", "metainfo"):
        shutil.rmtree(tree / "usr" / "share" / name, ignore_errors=True)


# --- vhost-device-vsock ---------------------------------------------------------------------


def fetch_vsock_device() -> vsock_device.Device:
    """Download and unpack the program and its libc, from a release that may be later, into the cache."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as text:
        work = Path(text)
        tree = work / "tree"
        private_apt.unpack(work, tree, vsock_device.SUITE, vsock_device.PACKAGE)
        (program,) = (work / "archives").glob(f"{vsock_device.PACKAGE}_*.deb")
        for name in ("usr/share", "usr/lib/x86_64-linux-gnu/gconv"):
            shutil.rmtree(tree / name, ignore_errors=True)
        if not vsock_device.runs(vsock_device.Device(tree)):
            raise FetchError(f"{vsock_device.PACKAGE} of {vsock_device.SUITE} does not run here")
        kept = CACHE / vsock_device.name_of(program)
        shutil.rmtree(kept, ignore_errors=True)
        tree.rename(kept)
    return vsock_device.Device(kept)


# --- the command ----------------------------------------------------------------------------


def _wanted() -> dict[str, str]:
    """What is missing, each with its purpose."""
    present, wanted = qemu.installed(), {}
    if present is None or platform.machine() != "x86_64":
        return {}
    if kernel() is None:
        wanted["kernel"] = "the tests of a virtual machine are skipped"
    elif missing_modules():
        wanted["kernel"] = "the tests of vsock are skipped, the kernel has too few modules"
    if vsock_device.cached() is None:
        wanted["vsock"] = "the tests of vsock are skipped"
    if not present.reconnects and qemu.cached() is None:
        wanted["qemu"] = f"the tests of a QEMU that reconnects (from 8 on) are skipped, {present} cannot"
    return wanted


_FETCH: dict[str, Callable[[], object]] = {
    "kernel": lambda: fetch_kernel().image,
    "qemu": lambda: fetch_qemu().program,
    "vsock": lambda: fetch_vsock_device().tree,
}


def main() -> int:
    """Fetch what is missing. Prints a line to standard error for each download that failed."""
    wanted = _wanted()
    if not wanted:
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    status = 0
    for name, consequence in wanted.items():
        try:
            private_apt.refresh_lists()
            print(_FETCH[name]())
        except (FetchError, OSError) as error:
            print(f"{consequence}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
