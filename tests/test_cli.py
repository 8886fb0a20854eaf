"""The command: sub-commands, exit codes, what is printed where."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import yaml

from pipeline import cli, release
from pipeline.config.model import Config
from pipeline.daemon import lifetime, programs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    configs: list[Config] = []

    def run(
        config: Config,
        program: programs.Program,
        version: str,
        _reread: object = None,
        predecessor: object = None,
    ) -> int:
        assert predecessor is None
        assert (program.name, version) == ("gvtap-pipeline", release.version())
        configs.append(config)
        return 7

    monkeypatch.setattr(lifetime, "run", run)
    return configs


def test_start_runs_the_supervisor_and_returns_its_code(started: list[Config], tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert cli.main(["start", "--mtu", "9000", "-log-file", str(log), "-pid-file", "/p"]) == 7
    assert started[0].network.mtu == 9000
    assert started[0].logging.pid_file == "/p"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    # Lines that other tests have logged too often are reported here.
    (line,) = (line for line in lines if line["event"] != "log lines left out")
    assert line["event"] == f"gvtap-pipeline version {release.version()}"
    assert (line["data_path"], line["python"]) == (release.data_path(), release.python())


def test_warnings_are_logged(started: list[Config], tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "c.yaml"
    file.write_text(f"log-file: {log}\nlisen: []\n")
    assert cli.main(["start", "-config", str(file)]) == 7
    first = json.loads(log.read_text().splitlines()[0])
    assert first["level"] == "warning"
    assert "did you mean listen?" in first["event"]


@pytest.mark.parametrize("command", ["start", "config show"])
def test_a_wrong_flag_is_two_lines_and_code_2(
    command: str, started: list[Config], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command.split(), "-lisen", "unix:///s"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "flag provided but not defined: -lisen, did you mean -listen?",
        f"'gvtap-pipeline {command} -help' lists the flags",
    ]
    assert started == []


def test_a_flag_like_no_other_gets_no_suggestion(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["start", "-xyzzy"]) == 2
    assert capfd.readouterr().err.startswith("flag provided but not defined: -xyzzy\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["start", "listen", "unix:///s"], '"listen" is not a flag, did you mean -listen?'),
        (["start", "-debug", "mtu=1400"], '"mtu=1400" is not a flag, did you mean -mtu=1400?'),
        (["start", "-debug", "true"], 'unexpected argument "true": a flag begins with a dash'),
        (["-listen", "unix:///s"], '"-listen" is a flag of start: gvtap-pipeline start -listen unix:///s'),
        (["staart"], "unknown command: staart, did you mean start?"),
        (["config", "checks", "f"], "unknown command: config checks f, did you mean config check?"),
    ],
)
def test_a_word_in_the_wrong_place_is_explained(
    words: list[str], text: str, started: list[Config], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert capfd.readouterr().err.splitlines()[0] == text
    assert started == []


@pytest.mark.parametrize(
    "words", [["start", "-h"], ["start", "--help"], ["config", "-help"], ["-h"], ["--help"], ["help"]]
)
def test_help_goes_to_standard_output_with_code_0(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Usage of gvtap-pipeline")
    assert err == ""


@pytest.mark.parametrize("words", [["-version"], ["--version"], ["start", "-version", "-config", "/nowhere"]])
def test_the_version_is_printed_before_any_configuration_is_read(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 0
    assert capfd.readouterr().out == f"{release.line('gvtap-pipeline')}\n"


@pytest.mark.parametrize("words", [[], ["stop"], ["config"], ["config", "check"], ["-listen", "unix:///a"]])
def test_anything_else_is_misuse(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert "Usage of gvtap-pipeline" in capfd.readouterr().err


def test_a_configuration_that_fails_is_one_critical_line_and_code_1(
    started: list[Config], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["start", "-subnet", "x"]) == 1
    line = json.loads(capfd.readouterr().err)
    assert line["level"] == "critical"
    assert line["event"] == "failed to parse subnet: invalid CIDR address: x"
    assert started == []


def test_check_says_ok(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "c.yaml"
    file.write_text(f"stack: {{mtu: 9000}}\nlog-file: {log}\n")
    assert cli.main(["config", "check", str(file)]) == 0
    assert capfd.readouterr().out == f"{file}: ok\n"
    assert not log.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("stack: {mtu: x}", "stack.mtu: must be a whole number"), ("lisen: []", "did you mean listen?")],
)
def test_check_names_what_is_wrong(
    text: str, expected: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert cli.main(["config", "check", str(file)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert expected in err


def test_check_has_a_line_for_each_wrong_value_and_for_each_unknown_key(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "stack: {mtu: x, mtv: 1}\nlisen: []\nlisten: a\n"
        "egress-policy: {defaultt: deny, rules: [{action: maybe, nets: []}]}\nguest-apis: {}\n"
    )
    assert cli.main(["config", "check", str(file)]) == 1
    starts = [
        "line 1: stack.mtu: must be a whole number",
        "line 3: listen: must be a list",
        "line 4: egress-policy.rules[0].action: must be allow or deny",
        "line 2: unknown key lisen, did you mean listen?",
        "line 5: unknown key guest-apis, did you mean guest-api? (a restriction would be missing)",
        "line 1: unknown key stack.mtv, did you mean mtu?",
        "line 4: unknown key egress-policy.defaultt, did you mean default? (a restriction would be missing)",
    ]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(f"{file}: {start}")


@pytest.mark.parametrize(
    "words", [["help"], ["-version"], ["start", "-help"], ["config", "schema"], ["config", "show"]]
)
def test_a_reader_that_has_left_is_no_traceback(words: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words], stdout=theirs, stderr=subprocess.PIPE, timeout=60
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_show_prints_the_merged_result_as_a_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("stack: {subnet: 10.0.0.0/24}\n")
    assert cli.main(["config", "show", "-config", str(file), "-mtu", "4000"]) == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert shown["stack"]["mtu"] == 4000
    assert shown["stack"]["hostIP"] == "10.0.0.254"


def test_a_log_file_that_cannot_be_opened_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["start", "-log-file", "/nowhere/log"]) == 1
    assert "unable to open log file /nowhere/log" in json.loads(capfd.readouterr().err)["event"]
    assert not os.path.exists("/nowhere")
