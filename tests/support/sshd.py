"""Runs OpenSSH's server in a guest, with a key pair for root, and a program that serves a unix socket there.

with Sshd(agent.guest, directory) as sshd: ...        sshd.key is the private key, sshd.socket the guest's
python -m tests.support.sshd SOCKET                   the program: reads to the end, then "<count> <sha256>";
                                                      a first byte "E" is answered at once with "early" and
                                                      the end, and the rest goes to SOCKET.heard
"""

import asyncio
import getpass
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.support.netns import Namespace, wait_for

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def missing() -> str:
    """Why the server cannot run here; "" if it can."""
    return "" if PROGRAM and shutil.which("ssh-keygen") else "needs sshd (apt-get install openssh-server)"


class Sshd:
    """The server. Its keys and the program's socket stay the same from one run to the next."""

    def __init__(self, guest: Namespace, directory: Path) -> None:
        self.guest = guest
        self.user = getpass.getuser()
        self.key = directory / "ssh-key"
        self.socket = directory / "guest.sock"
        self.heard = directory / "guest.sock.heard"
        self._directory = directory
        self._config = directory / "sshd_config"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start server and program. Returns when the server listens."""
        for name in ("ssh-key", "ssh-host-key"):
            if not (self._directory / name).exists():
                argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._directory / name)]
                subprocess.run(argv, check=True)
        # The directory for sshd's unprivileged part.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._config.write_text(
            f"Port 22\nHostKey {self._directory}/ssh-host-key\nAuthorizedKeysFile {self.key}.pub\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\n"
            "AllowStreamLocalForwarding yes\nMaxStartups 100\nMaxSessions 200\n"
        )
        assert PROGRAM is not None
        self.socket.unlink(missing_ok=True)
        log = (self._directory / "sshd.log").open("ab")
        self._processes = [
            self.guest.popen([PROGRAM, "-D", "-e", "-f", str(self._config)], stderr=log),
            self.guest.popen([sys.executable, "-m", "tests.support.sshd", str(self.socket)]),
        ]
        log.close()
        wait_for(self._listens, "sshd listens")

    def _listens(self) -> bool:
        assert self._processes[0].poll() is None, (self._directory / "sshd.log").read_text()
        listening = self.guest.run("ss", "-H", "-l", "-t", "-n", "sport", "=", ":22").stdout
        return bool(listening) and self.socket.exists()

    def stop(self) -> None:
        """End server and program, and all connections."""
        for process in self._processes:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                subprocess.run(["kill", "-9", child], check=False)
            process.kill()
            process.wait(5)
        self._processes = []

    def log(self) -> str:
        """The server's log."""
        return (self._directory / "sshd.log").read_text(errors="replace")

    def __enter__(self) -> "Sshd":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stderr.write(self.log())
        self.stop()


def answer_to(data: bytes) -> bytes:
    """The program's answer to data."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


async def _serve(path: str) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if first == b"E":
            writer.write(b"early")
            writer.write_eof()
            with open(f"{path}.heard", "wb") as heard:
                heard.write(answer_to(await reader.read(-1)))
        else:
            writer.write(answer_to(first + await reader.read(-1)))
        writer.close()

    server = await asyncio.start_unix_server(client, path)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
