"""The daemon's door to a fleet: without -fleet nothing of it is loaded, and a missing library is named."""

import subprocess
import sys

import pytest

from pipeline.daemon import fleet
from tests.config.built import build

SERVERS = ("-fleet", "nats://one", "-fleet-host", "alpha", "-link", "vxlan+udp://10.66.0.1?vni=7")


def test_without_the_flag_nothing_of_a_fleet_is_loaded() -> None:
    script = (
        "import sys\n"
        "import pipeline.commands.start, pipeline.daemon.supervisor\n"
        "import pipeline.stages.ingress.stage, pipeline.stages.demux.stage, pipeline.stages.resolver.stage\n"
        "import pipeline.stages.tcp.stage, pipeline.stages.egress.stage\n"
        "wrong = [name for name in sys.modules if name.split('.')[0] in ('nats', 'nkeys')\n"
        "         or name.startswith(('pipeline.fleet', 'pipeline.engines.fleet'))]\n"
        "print(wrong)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["nats", "nkeys"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda asked, *_: None if asked == name else object())
    words = (*SERVERS, "-fleet-nkey", __file__)
    with pytest.raises(fleet.FleetError, match=f"fleet needs {name}, which is not installed: pip install"):
        fleet.check(build(*words)[0])
    fleet.check(build()[0])
