"""Every command of docs/operate.md, from the installation on, with a guest, Prometheus and tshark.

The commands run in their order in a copy of the checkout. Three things differ from a reader's machine: the
namespace `box` has another name, pip takes packages from this environment, and `wireshark` is tshark.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support import page
from tests.support.netns import Namespace, Network, wait_for
from tests.support.page import Command, Done, Shell, sections

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operate.md"
DASHBOARD = ROOT / "contrib" / "grafana" / "gvtap-pipeline.json"
PROMETHEUS = "http://127.0.0.1:9099"
BOX = f"gvp{os.getpid()}-box"
PARTS = sections(PAGE.read_text())
INSTALL, GUEST, GRAFANA, WIRESHARK, BANDWIDTH, RULE, REMOVE = PARTS
MOST = 9
"""Commands of one part."""
KEYS = "(sleep 5; printf 2; sleep 5; while printf q 2> /dev/null; do sleep 1; done)"
"""Shows the flows in `top`, and quits."""
PROGRAMS = ("prometheus", "promtool", "tshark", "curl", "git", "script")

Ran = dict[str, list[Done]]


def test_each_part_has_fewer_than_ten_commands() -> None:
    assert {part: len(found) for part, found in PARTS.items() if len(found) > MOST} == {}


@pytest.mark.parametrize(
    ("text", "fails"), [("false", False), ("true", True), ("gvtap-pipelin status", False), ("exit 0", False)]
)
def test_a_command_that_does_not_do_what_the_page_says_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fails: bool
) -> None:
    monkeypatch.setattr(page, "HESITATION", 0.0)
    with Shell((), os.environ, tmp_path) as shell:
        assert shell.run(Command("echo a \\\n  b", False, False, False)).output == "a b\n"
        with pytest.raises(AssertionError, match=text):
            shell.run(Command(text, False, fails, False))


def test_commands_are_lines_with_those_that_belong_to_them() -> None:
    block = "one \\\n  two\ncat > file <<END\nthree\nEND\n\nfour\n"
    assert list(page.commands(block)) == ["one \\\n  two", "cat > file <<END\nthree\nEND", "four"]


def environment(directory: Path) -> dict[str, str]:
    """A reader's environment: an own home, python3, and a Wireshark without a screen."""
    programs = directory / "programs"
    programs.mkdir()
    for name, line in {
        "python3": f'exec {sys.executable} "$@"',
        "wireshark": '[ "$1" = -k ] && shift && exec tshark -c 20 "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GVTAP_API")}
    return {
        **kept,
        "HOME": str(directory),
        "PATH": f"{programs}:{kept['PATH']}:/usr/sbin:/sbin",
        "GVTAP_COMPILE": "0",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip means: no isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "SETUPTOOLS_SCM_PRETEND_VERSION": "0.0.1",
    }


def checkout(directory: Path) -> Path:
    """A copy of the sources here, with changes that are not committed."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    return directory


def query(host: Namespace, expression: str) -> list[Any]:
    """The series that Prometheus has for an expression now."""
    url = f"{PROMETHEUS}/api/v1/query?{urlencode({'query': expression})}"
    answer = json.loads(host.run("curl", "-sS", url).stdout)
    assert answer["status"] == "success", (expression, answer)
    found: list[Any] = answer["data"]["result"]
    return found


def expressions() -> list[str]:
    """Those of the dashboard, without conditions that only let drops through, as Grafana sends them."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    variables = {"$__rate_interval": "1m", "$instance": ".*"}
    for variable, value in variables.items():
        found = [text.replace(variable, value) for text in found]
    return [re.sub(r" > 0$", "", text) for text in found]


class Reader:
    """Someone who types the commands of the page."""

    def __init__(self, network: Network, directory: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._env = environment(directory)
        self._checkout = checkout(directory / "checkout")
        self._home = directory
        # The namespace that is made in this shell must be seen outside. `ip netns exec` would hide it.
        self._host = self._shell("nsenter", f"--net=/run/netns/{network.host.name}")
        self._guest: Shell | None = None

    def _shell(self, *argv: str) -> Shell:
        return self._stack.enter_context(Shell(argv, self._env, self._checkout))

    def run(self, command: Command) -> Done:
        """Run one command where it belongs."""
        command = command._replace(text=re.sub(r"\bbox\b", BOX, command.text))
        if command.guest:
            self._guest = self._guest or self._shell("ip", "netns", "exec", BOX)
            return self._guest.run(command)
        if command.terminal:
            screen = f"script -qefc 'stty cols 100 rows 30; {command.text}' /dev/null"
            command = command._replace(text=f"{KEYS} | TERM=xterm {screen}")
        done = self._host.run(command)
        if "-m venv" in command.text:
            self._lend_packages()
        return done

    def _lend_packages(self) -> None:
        """Let the new environment see the packages of this one, as pip may fetch none."""
        (target,) = (self._home / "gvtap" / "lib").glob("python*/site-packages")
        # They come first: Python 3.11 puts an old setuptools into a new environment.
        (target / "lent.pth").write_text(
            f"import sys; sys.path.insert(1, {sysconfig.get_path('purelib')!r})\n"
        )


@pytest.fixture(scope="module")
def ran(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ran, Network]]:
    """What all commands but those that remove everything have printed. They run at the end."""
    for name in PROGRAMS:
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    pytest.importorskip("setuptools_scm")
    pytest.importorskip("textual")
    try:
        with ExitStack() as stack:
            home = tmp_path_factory.mktemp("o")
            reader = Reader(network, home, stack)
            done = {
                part: [reader.run(command) for command in found]
                for part, found in PARTS.items()
                if part != REMOVE
            }
            yield done, network
            for command in PARTS[REMOVE]:
                reader.run(command)
            assert not (home / "gvtap").exists()
            assert not Path(f"/run/netns/{BOX}").exists()
    finally:
        if Path(f"/run/netns/{BOX}").exists():
            subprocess.run(["ip", "netns", "del", BOX], check=True)
        shutil.rmtree(Path("/etc/netns") / BOX, ignore_errors=True)


pytestmark = pytest.mark.e2e


def outputs(done: Ran, part: str) -> list[str]:
    return [each.output for each in done[part]]


def test_the_daemon_starts_and_a_guest_comes(ran: tuple[Ran, Network]) -> None:
    done, _ = ran
    assert "plain" in outputs(done, INSTALL)[-1]
    assert any("192.168.127.2" in text for text in outputs(done, GUEST))


def test_prometheus_has_the_rate_and_data_for_every_panel(ran: tuple[Ran, Network]) -> None:
    done, network = ran
    assert 'direction="to_guest"' in outputs(done, GRAFANA)[-1]
    wait_for(lambda: query(network.host, "gvtap_tcp_flow_bytes_count > 0"), "the deleted flow counts", 20, 1)
    assert [text for text in expressions() if not query(network.host, text)] == []


def test_wireshark_gets_one_guests_frames(ran: tuple[Ran, Network]) -> None:
    done, _ = ran
    _, everything, flow = outputs(done, WIRESHARK)
    assert everything.count("192.168.127.2") >= 20
    assert len(re.findall(r"192\.168\.127\.254 .*TCP .*8000", flow)) >= 5


def test_the_download_is_the_first_flow_and_ends_when_deleted(ran: tuple[Ran, Network]) -> None:
    done, _ = ran
    screen, first, second, *_, log = outputs(done, BANDWIDTH)
    assert "192.168.127.254:8000" in screen
    assert re.match(r"ID .*\n(tcp0-\d+) +tcp +192\.168\.127\.2:\d+ +-> +192\.168\.127\.254:8000 ", first)
    assert json.loads(second)["flows"][0]["port"] == 8000
    ended = json.loads(log)
    assert (ended["port"], ended["reason"]) == (8000, "deleted")
    assert ended["bytes_to_guest"] > 1_000_000


def test_the_rule_is_named_and_a_reload_lifts_it(ran: tuple[Ran, Network]) -> None:
    done, _ = ran
    refused, rule, line, count, _, _, reloaded, _, failed = outputs(done, RULE)
    assert "curl: (7)" in refused
    assert '"rule":"egress-policy.rules[0]"' in rule
    assert json.loads(line)["rule"] == "egress-policy.rules[0]"
    assert "policy" in count
    assert "egress-policy" in json.loads(reloaded)["changed"]
    ended = json.loads(failed)
    assert (ended["kind"], ended["port"], ended["errno"]) == ("flow-failed", 25, "ECONNREFUSED")
