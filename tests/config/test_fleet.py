"""The settings of a fleet, and what they have to do with the link to other hosts."""

from pathlib import Path

import pytest

from pipeline.config.model import Fleet
from tests.config.built import build, refusal

LINK = ("-link", "vxlan+udp://10.66.0.1?vni=7")
SERVERS = ("-fleet", "nats://one.example,two.example:4223")


def test_without_servers_there_is_no_fleet() -> None:
    assert build()[0].fleet == Fleet("", "", "", "", "", "", "", "", 90)


def test_the_host_and_the_network_have_names_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("", (), {"nodename": "Rack-7.example"}))
    made = build(*SERVERS, *LINK)[0].fleet
    assert (made.fleet_servers, made.fleet_host, made.fleet_network) == (SERVERS[1], "rack-7", "gvtap")


def test_a_name_of_the_host_that_will_not_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("", (), {"nodename": "a_b"}))
    assert "fleet-host is missing" in refusal(*SERVERS, *LINK)
    assert build(*SERVERS, *LINK, "-fleet-host", "alpha")[0].fleet.fleet_host == "alpha"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(
        "fleet: {servers: nats://a, host: alpha, network: lab, ttl: 20}\nlinks: ['vxlan+udp://10.1.1.1?vni=1']\n"
    )
    made = build("-config", str(path), "-fleet-host", "beta")[0].fleet
    assert (made.fleet_servers, made.fleet_host, made.fleet_network, made.fleet_ttl) == (
        "nats://a",
        "beta",
        "lab",
        20,
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-fleet", "nats://"), "fleet must be NATS servers such as"),
        (("-fleet", "http://one"), "fleet must be NATS servers such as"),
        (("-fleet", "nats://one:0"), "fleet must be NATS servers such as"),
        (("-fleet", "nats://user:secret@one"), "fleet must be NATS servers such as"),
        (("-fleet", "nats://one,,two"), "fleet must be NATS servers such as"),
        (("-fleet-host", "alpha"), "fleet-host needs -fleet"),
        (("-fleet-ca", "/etc/ssl"), "fleet-ca needs -fleet"),
        ((*SERVERS, *LINK, "-fleet-host", "Alpha"), "fleet-host must be a name of small letters"),
        ((*SERVERS, *LINK, "-fleet-nkey", "/nowhere"), 'fleet-nkey: "/nowhere" is not a file'),
        ((*SERVERS, *LINK, "-fleet-key", __file__), "fleet-certificate and fleet-key are needed together"),
        (
            (*SERVERS, *LINK, "-fleet-nkey", __file__, "-fleet-credentials", __file__),
            "fleet-credentials and fleet-nkey cannot be used together",
        ),
        ((*SERVERS, "-fleet-host", "alpha"), "fleet needs a link to the other hosts"),
        (
            (*SERVERS, "-fleet-host", "alpha", "-link", "vxlan+udp://0.0.0.0?vni=7"),
            "0.0.0.0 is not one address",
        ),
        (LINK, "link: vxlan: remote is missing"),
    ],
)
def test_errors_name_the_option_and_what_is_allowed(words: tuple[str, ...], text: str) -> None:
    assert text in refusal(*words)
