"""What -version shows, and that it costs little."""

import subprocess
import sys
from importlib import machinery
from pathlib import Path

import pytest

from pipeline import release

HEAVY = ("aiohttp", "asyncio", "asyncssh", "dns", "numpy", "pydantic", "structlog", "yaml")


def test_the_line_has_version_data_path_and_python() -> None:
    line = release.line("gvtap-pipeline")
    assert line.startswith(f"gvtap-pipeline version {release.version()} (")
    assert line.endswith(f"{release.data_path()}, Python {release.python()})")


def test_a_compiled_module_makes_the_data_path_compiled(tmp_path: Path) -> None:
    stages = tmp_path / "stages"
    stages.mkdir()
    stages.joinpath("worker.py").touch()
    assert release.data_path(tmp_path) == "plain"
    stages.joinpath(f"worker{machinery.EXTENSION_SUFFIXES[0]}").touch()
    assert release.data_path(tmp_path) == "compiled"


def test_a_build_that_could_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert release.why_plain(tmp_path) == ""
    tmp_path.joinpath(release.WHY_PLAIN).write_text("no C compiler\n")
    assert release.why_plain(tmp_path) == "no C compiler"
    monkeypatch.setattr(release, "why_plain", lambda: "no C compiler")
    monkeypatch.setattr(release, "data_path", lambda: "plain")
    assert "(plain: no C compiler, Python " in release.line("gvtap-pipeline")


@pytest.mark.parametrize("module", ["pipeline.cli", "pipeline.gvproxy"])
def test_version_loads_no_library_of_the_daemon(module: str) -> None:
    code = f"import sys; from {module} import main; main(['-version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "pipeline.release" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_start_without_a_file_loads_no_library_for_files_and_requests() -> None:
    code = "import sys; import pipeline.commands.start; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert loaded.isdisjoint({"aiohttp", "asyncssh", "prometheus_client", "pydantic", "rich", "yaml"})
    assert loaded.isdisjoint({"ssl", "_ssl", "hashlib", "_hashlib"}), "it has OpenSSL's memory"
    assert loaded.isdisjoint({"dns", "h11", "re2"}), "it has what rare traffic needs"
    assert loaded.isdisjoint({"dill", "encodings.idna", "tempfile"}), "it has what nothing needs"


def test_what_a_start_leaves_out_is_there_for_those_who_want_it() -> None:
    code = "import pipeline.commands.start, ssl, dill, asyncio.sslproto; print(asyncio.sslproto.ssl is None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
