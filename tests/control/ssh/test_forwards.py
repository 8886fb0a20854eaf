"""Forwards over ssh where the ssh library is not installed: it is an extra."""

import asyncio
import subprocess
import sys

import pytest
import structlog

from pipeline.control.forward_texts import ForwardError
from pipeline.control.forwarder import Forwarder
from pipeline.control.ssh import forwards
from pipeline.control.ssh.destination import SshError
from tests.control.endpoint import Workers

WORDS = "forwards over ssh need asyncssh, which is not installed: pip install 'gvtap-pipeline[ssh]'"
REMOTE = "ssh-tunnel://root@192.168.127.2/run/podman.sock?key=/k"


@pytest.fixture(autouse=True)
def _missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, forwards.LIBRARY, None)


def test_the_error_names_the_extra() -> None:
    with pytest.raises(SshError) as refused:
        forwards.check_library()
    assert str(refused.value) == WORDS


def test_a_client_of_the_api_gets_the_same_words() -> None:
    workers = Workers()
    sockets = forwards.SocketForwards(workers, structlog.get_logger())
    with pytest.raises(ForwardError) as refused:
        asyncio.run(Forwarder(workers, sockets).expose("unix", "/tmp/s.sock", REMOTE))
    assert str(refused.value) == WORDS


def test_a_daemon_loads_it_only_with_such_a_forward() -> None:
    code = "import sys; import pipeline.daemon.supervisor; print('asyncssh' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
