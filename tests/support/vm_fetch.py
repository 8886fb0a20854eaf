"""Downloads packages for the virtual machine of the tests into the cache, without installing them.

    python -m tests.support.vm_fetch

It gets Debian's cloud kernel (about 27 MB). If the installed QEMU is too old to reconnect, it also gets a
newer one from Debian's backports (about 14 MB). And it gets vhost-device-vsock from a later release, with the
libc that this needs (about 4 MB). All are only unpacked: nothing is installed or replaced, and apt's sources
do not change. Root is needed only if apt's lists were never fetched. Without work it prints nothing.
"""

import dataclasses
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support import qemu, vsock_device
from tests.support.qemu import CACHE, Qemu
from tests.support.vm import EXTRA_MODULES, MODULES, Kernel, kernel, missing_modules

META_PACKAGE = "linux-image-cloud-amd64"
QEMU_PACKAGE = "qemu-system-x86"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMMAND_SECONDS = 300.0
UPDATE_SECONDS = 60.0
"""Seconds that a mirror may take to send a list of packages (backports: 0.4 MB, a release: 10 MB)."""

# A private apt: it has lists, cache and sources in a directory of its own, and does not run hooks that are
# configured for apt. It sees the system's installed packages.
_APT_CONF = """\
Dir::State::lists "{work}/lists/";
Dir::Cache "{work}/cache/";
Dir::Cache::archives "{work}/archives/";
APT::Sandbox::User "root";
APT::Get::List-Cleanup "false";
APT::Update::Error-Mode "any";
Acquire::Retries "1";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
Debug::NoLocking "true";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
"""


class FetchError(Exception):
    """A download failed. The text says which one and why."""


@dataclasses.dataclass(frozen=True)
class Mirror:
    """The mirror that the system's own sources name for this release."""

    uri: str
    codename: str
    has_backports: bool
    """Whether the sources already have backports."""

    @property
    def backports(self) -> str:
        """The name of the backports release."""
        return f"{self.codename}-backports"

    @property
    def source(self) -> str:
        """A line for sources.list; "" if the sources already have backports."""
        if self.has_backports:
            return ""
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        return f"deb {signed}{self.uri} {self.backports} main\n"


def _run(*argv: str, directory: Path | None = None, timeout: float = COMMAND_SECONDS) -> str:
    """Run a command, and return its output. FetchError if it fails."""
    try:
        done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(str(error)) from error
    if done.returncode != 0:
        raise FetchError(f"{argv[0]}: {' '.join(done.stderr.split()) or f'status {done.returncode}'}")
    return done.stdout


# --- kernel ---------------------------------------------------------------------------------


def fetch_kernel() -> Kernel:
    """Download the kernel into the cache."""
    package = _real_package()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as text:
        work = Path(text)
        _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, directory=work)
        (archive,) = work.glob("*.deb")
        _run("dpkg-deb", "-x", str(archive), str(work / "tree"))
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
        text = _run("apt-cache", "depends", META_PACKAGE)
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


def mirror() -> Mirror:
    """The mirror from which apt gets this release of Debian. FetchError if there is none."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    line = "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"
    text = _run("apt-get", "indextargets", "--format", line, "Created-By: Packages")
    fields = [target.split("|") for target in text.splitlines()]
    has_backports = any(codename == f"{release}-backports" for _, _, codename, _, _ in fields)
    for origin, label, codename, component, uri in fields:
        if (origin, label, codename, component) == ("Debian", "Debian", release, "main"):
            return Mirror(uri, release, has_backports)
    raise FetchError(f"apt knows no release of Debian called {release!r}")


def fetch_qemu() -> Qemu:
    """Download and unpack QEMU from backports, with libraries that are not installed, into the cache."""
    source = mirror()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as text:
        work = Path(text)
        _download_qemu(source, work)
        tree = work / "tree"
        tree.mkdir()
        for archive in (work / "archives").glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), str(tree))
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
    _make_private_apt(work)
    (work / "backports.list").write_text(source.source)
    system_list = Path("/etc/apt/sources.list")
    known = system_list.read_text() if system_list.exists() else ""
    (work / "sources.list").write_text(f"{known}\n{source.source}")
    # Use the lists that the system already has.
    lists = _run("apt-config", "shell", "folder", "Dir::State::lists/d").partition("=")[2].strip().strip("'")
    for path in Path(lists).glob("*_dists_*"):
        (work / "lists" / path.name).symlink_to(path)
    apt = ("apt-get", "-q", "-y", "-c", str(work / "apt.conf"), "-o")
    if source.source:
        only = (f"Dir::Etc::sourcelist={work / 'backports.list'}", "-o", "Dir::Etc::sourceparts=/dev/null")
        _run(*apt, *only, "update", timeout=UPDATE_SECONDS)
    package = f"{QEMU_PACKAGE}/{source.backports}"
    options = ("--no-install-recommends", "--download-only")
    _run(*apt, f"Dir::Etc::sourcelist={work / 'sources.list'}", *options, "install", package)


def _make_private_apt(work: Path) -> None:
    """Make the directories and the configuration of a private apt."""
    for name in ("lists/partial", "cache", "archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "apt.conf").write_text(_APT_CONF.format(work=work))


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
    source = mirror()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as text:
        work = Path(text)
        _make_private_apt(work)
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        (work / "sources.list").write_text(f"deb {signed}{source.uri} {vsock_device.SUITE} main\n")
        # With an empty status nothing is installed, so that apt also downloads libc.
        (work / "status").touch()
        apt = ["apt-get", "-q", "-y", "-c", str(work / "apt.conf")]
        for option in ("Dir::Etc::sourceparts=/dev/null", f"Dir::State::status={work / 'status'}"):
            apt += ["-o", option]
        apt += ["-o", f"Dir::Etc::sourcelist={work / 'sources.list'}"]
        _run(*apt, "update", timeout=UPDATE_SECONDS)
        _run(*apt, "--no-install-recommends", "--download-only", "install", vsock_device.PACKAGE)
        tree = work / "tree"
        tree.mkdir()
        for archive in (work / "archives").glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), str(tree))
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


def _refresh_lists() -> None:
    """Run apt-get update if apt knows no packages and we are root, as on a fresh system."""
    if os.geteuid() == 0 and not _run("apt-get", "indextargets", "Created-By: Packages"):
        _run("apt-get", "-q", "update")


def main() -> int:
    """Fetch what is missing. Prints a line to standard error for each download that failed."""
    wanted = _wanted()
    if not wanted:
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    status = 0
    for name, consequence in wanted.items():
        try:
            _refresh_lists()
            print(_FETCH[name]())
        except (FetchError, OSError) as error:
            print(f"{consequence}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
