"""The files of examples/ that no test can use as a whole, and what examples/README.md says about each."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.config import file as config_file
from tests.support import examples
from tests.support.agent import default_route
from tests.support.daemon import Daemon
from tests.support.examples import EXAMPLES, ROOT
from tests.support.netns import Network, wait_for

FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
PODMAN = {
    "5": ("-mtu", "1500", "-ssh-port", "PORT", "-listen-vfkit", "unixgram://DIR/vm.sock"),
    "4.3": ("-mtu", "1500", "-ssh-port", "PORT", "-listen-qemu", "unix://DIR/vm.sock"),
}
"""The flags that depend on the version. Both then have those of the test."""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(guest_count=1) as made:
        yield made


def test_every_example_says_whether_it_was_run() -> None:
    overview = (EXAMPLES / "README.md").read_text()
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()) == FOLDERS
    for name in FOLDERS:
        text = (EXAMPLES / name / "README.md").read_text()
        assert len(re.findall(r"\*\*(Run by a test|Not run here)\*\*", text)) == 1, name
        assert f"({name}/README.md)" in overview, name
        for path in re.findall(r"`(tests/\S+\.py|contrib/[\w./-]+)`", text):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("**/network*.yaml")), ids=str)
def test_a_configuration_file_has_no_problem(path: Path) -> None:
    assert config_file.read(path.read_text())[1] == ()
    argv = [sys.executable, "-m", "pipeline.cli", "config", "check", path]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("**/*.sh")), ids=str)
def test_a_shell_can_read_the_script(path: Path) -> None:
    assert path.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", path], check=True)


def test_limas_file_names_the_socket_on_which_the_readme_has_the_daemon_listen() -> None:
    found = yaml.safe_load((EXAMPLES / "lima" / "gvtap.yaml").read_text())
    assert set(found) == {"minimumLimaVersion", "base", "networks"}
    (network,) = found["networks"]
    assert set(network) == {"socket", "metric"}
    assert Path(network["socket"]).is_absolute()
    assert f"-listen-qemu unix://{network['socket']}" in (EXAMPLES / "lima" / "README.md").read_text()


def test_firecrackers_file_has_the_socket_of_the_script() -> None:
    found = json.loads((EXAMPLES / "firecracker" / "vm_config.json").read_text())
    assert found["vsock"] == {"guest_cid": 3, "uds_path": "v.sock"}
    assert "/v.sock_1024" in (EXAMPLES / "firecracker" / "run.sh").read_text()


def test_podman_finds_the_link_before_its_own_gvproxy() -> None:
    found = tomllib.loads((EXAMPLES / "podman-machine" / "containers.conf").read_text())
    first, *others = found["engine"]["helper_binaries_dir"]
    assert (
        f'ln -s "$(command -v gvtap-gvproxy)" {first}/gvproxy'
        in (EXAMPLES / "podman-machine" / "README.md").read_text()
    )
    assert "/usr/libexec/podman" in others


@pytest.mark.parametrize("version", PODMAN)
def test_a_link_called_gvproxy_takes_podmans_flags(version: str, tmp_path: Path) -> None:
    pytest.importorskip("asyncssh", reason="forwards need the extra ssh")
    env = examples.programs(tmp_path / "bin")
    (tmp_path / "gvproxy").symlink_to(tmp_path / "bin" / "gvtap-gvproxy")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pid_file, log = tmp_path / "gvproxy.pid", tmp_path / "gvproxy.log"
    words = [
        *PODMAN[version],
        *("-forward-sock", "DIR/podman.sock", "-forward-dest", "/run/user/1000/podman/podman.sock"),
        *("-forward-user", "core", "-forward-identity", str(key), "-pid-file", str(pid_file)),
        *(("-log-file", str(log)) if version == "5" else ()),
    ]
    port = str(examples.free_port())
    argv = [word.replace("DIR", str(tmp_path)).replace("PORT", port) for word in words]
    process = subprocess.Popen([tmp_path / "gvproxy", *argv], env=env, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: (tmp_path / "vm.sock").exists(), "the machine's socket", 30.0)
        assert int(pid_file.read_text()) == process.pid
        assert log.exists() == (version == "5")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert not pid_file.exists()
    assert not (tmp_path / "vm.sock").exists()


def test_the_daemon_takes_the_flags_of_the_enclaves_parent() -> None:
    script = (EXAMPLES / "nitro-enclave" / "run.sh").read_text()
    (flags,) = re.findall(r"^gvtap-pipeline start (.*) &$", script, re.MULTILINE)
    argv = [sys.executable, "-m", "pipeline.cli", "config", "show", *flags.replace('"', "").split()]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["listen"] == ["vsock://:1024"]


@pytest.mark.e2e
def test_the_enclaves_first_program_waits_for_the_network(network: Network, tmp_path: Path) -> None:
    script = examples.copied("nitro-enclave", tmp_path) / "enclave" / "start.sh"
    env = examples.programs(tmp_path / "bin")
    with Daemon(network) as daemon:
        env |= {"GVTAP_URL": f"unix://{daemon.socket}"}
        reached = tmp_path / "reached"
        words = ("sh", "-c", f"ping -c 1 -W 5 192.168.127.1 > {reached} && sleep 1 && kill 0")
        started = network.guest.popen([script, *words], env=env, start_new_session=True)
        try:
            wait_for(lambda: reached.exists() and "1 received" in reached.read_text(), "a ping", 30.0, 0.1)
            assert default_route(network.guest) == "192.168.127.1"
        finally:
            started.wait(20)
