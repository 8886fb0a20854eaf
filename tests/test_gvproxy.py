"""The command line of gvtap-gvproxy: its own flags and no others, its words, its codes."""

import json
from pathlib import Path

import pytest

from pipeline import gvproxy
from pipeline.config import options
from pipeline.config.model import Config
from pipeline.daemon import lifetime, programs


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    configs: list[Config] = []

    def run(
        config: Config, program: programs.Program, _version: str, _reread: object, predecessor: object
    ) -> int:
        assert program == programs.GVPROXY
        assert predecessor is None
        configs.append(config)
        return 0

    monkeypatch.setattr(lifetime, "run", run)
    monkeypatch.setattr(gvproxy.process_name, "set_name", lambda _name: None)
    return configs


def test_it_runs_without_a_sub_command(started: list[Config]) -> None:
    assert gvproxy.main(["-mtu", "4000", "--listen-vfkit", "unixgram:///nowhere/s", "left", "over"]) == 0
    (config,) = started
    assert config.network.mtu == 4000
    assert config.links.vfkit == "unixgram:///nowhere/s"
    assert config.workers.tcp_workers == 1


@pytest.mark.parametrize("flag", [flag.name for flag in options.OWN])
def test_flags_of_ours_are_not_defined(
    flag: str, started: list[Config], capfd: pytest.CaptureFixture[str]
) -> None:
    assert gvproxy.main([f"-{flag}", "1"]) == 2
    assert capfd.readouterr().err.startswith(f"flag provided but not defined: -{flag}\nUsage of ")
    assert started == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-nosuch"], "flag provided but not defined: -nosuch"),
        (["-mtu", "abc"], 'invalid value "abc" for flag -mtu: parse error'),
        (["-debug=maybe"], 'invalid boolean value "maybe" for -debug: parse error'),
    ],
)
def test_a_wrong_line_is_misuse(words: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert gvproxy.main(words) == 2
    captured = capfd.readouterr()
    assert captured.err.splitlines()[0] == text
    assert captured.out == ""


@pytest.mark.parametrize("word", ["-h", "-help", "--help"])
def test_help_is_on_standard_error_and_a_success(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert gvproxy.main([word]) == 0
    captured = capfd.readouterr()
    assert captured.out == ""
    assert all(f"  -{flag.name}" in captured.err for flag in options.GVPROXY)


def test_the_version_is_asked_for_before_anything_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    assert gvproxy.main(["-version", "-config", "/nowhere"]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith("gvproxy version ")
    assert captured.out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-config", "/nowhere"], "failed to read config file: open /nowhere: no such file or directory"),
        (["-subnet", "x", "-ssh-port", "1"], "failed to parse subnet: invalid CIDR address: x"),
        (
            ["-listen-qemu", "unix:///n/q", "-listen-bess", "unixpacket:///n/b"],
            "cannot use qemu and bess protocol at the same time",
        ),
        (["-listen-bess", "unix:///n"], "bess listen address must be unixpacket:// address"),
        (["-listen-vfkit", "unix:///n"], "vfkit listen address must be unixgram:// address"),
        (["-ssh-port", "80"], "ssh-port value must be between 1024 and 65535"),
    ],
)
def test_what_cannot_be_used_is_one_fatal_line_and_code_1(
    words: list[str], text: str, started: list[Config], capfd: pytest.CaptureFixture[str]
) -> None:
    assert gvproxy.main(words) == 1
    line = json.loads(capfd.readouterr().err)
    assert (line["level"], line["event"]) == ("critical", text)
    assert started == []


def test_a_fatal_line_is_in_the_log_file_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    assert gvproxy.main(["-log-file", str(path), "-subnet", "x"]) == 1
    for text in (path.read_text(), capfd.readouterr().err):
        assert json.loads(text)["event"] == "failed to parse subnet: invalid CIDR address: x"
