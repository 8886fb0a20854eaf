"""apt with lists, cache and sources of its own: it downloads packages that are then only unpacked.

Nothing is installed or replaced, and the system's sources and lists do not change. Hooks that are configured
for apt do not run. Packages may be those of another release, or of another architecture.
"""

import dataclasses
import os
import platform
import subprocess
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMMAND_SECONDS = 300.0
UPDATE_SECONDS = 60.0
"""Seconds that a mirror may take to send a list of packages (backports: 0.4 MB, a release: 10 MB)."""

# It sees the system's installed packages, unless Dir::State::status says otherwise.
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


def run(*argv: str, directory: Path | None = None, timeout: float = COMMAND_SECONDS) -> str:
    """Run a command, and return its output. FetchError if it fails."""
    try:
        done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(str(error)) from error
    if done.returncode != 0:
        raise FetchError(f"{argv[0]}: {' '.join(done.stderr.split()) or f'status {done.returncode}'}")
    return done.stdout


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
        return self.source_of(self.backports)

    def source_of(self, suite: str) -> str:
        """A line for sources.list that names a release."""
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        return f"deb {signed}{self.uri} {suite} main\n"


def mirror() -> Mirror:
    """The mirror from which apt gets this release of Debian. FetchError if there is none."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    line = "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"
    text = run("apt-get", "indextargets", "--format", line, "Created-By: Packages")
    fields = [target.split("|") for target in text.splitlines()]
    has_backports = any(codename == f"{release}-backports" for _, _, codename, _, _ in fields)
    for origin, label, codename, component, uri in fields:
        if (origin, label, codename, component) == ("Debian", "Debian", release, "main"):
            return Mirror(uri, release, has_backports)
    raise FetchError(f"apt knows no release of Debian called {release!r}")


def make(work: Path) -> None:
    """Make the directories and the configuration of a private apt."""
    for name in ("lists/partial", "cache", "archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "apt.conf").write_text(_APT_CONF.format(work=work))


def refresh_lists() -> None:
    """Run apt-get update if apt knows no packages and we are root, as on a fresh system."""
    if os.geteuid() == 0 and not run("apt-get", "indextargets", "Created-By: Packages"):
        run("apt-get", "-q", "update")


def unpack(work: Path, tree: Path, suite: str, *packages: str, architecture: str = "") -> None:
    """Download packages of a release with all that they depend on, also libc, and unpack them into a tree.

    work: a directory for the files of apt. architecture: such as "arm64", by default this system's. Raises
    FetchError.
    """
    make(work)
    (work / "sources.list").write_text(mirror().source_of(suite))
    # With an empty status nothing is installed.
    (work / "status").touch()
    apt = ["apt-get", "-q", "-y", "-c", str(work / "apt.conf")]
    for option in ("Dir::Etc::sourceparts=/dev/null", f"Dir::State::status={work / 'status'}"):
        apt += ["-o", option]
    apt += ["-o", f"Dir::Etc::sourcelist={work / 'sources.list'}"]
    if architecture:
        apt += ["-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"]
    run(*apt, "update", timeout=UPDATE_SECONDS)
    run(*apt, "--no-install-recommends", "--download-only", "install", *packages)
    tree.mkdir()
    for archive in (work / "archives").glob("*.deb"):
        run("dpkg-deb", "-x", str(archive), str(tree))
