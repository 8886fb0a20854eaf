"""Names of the hosts file and localhost: answered without a server, and what goes upstream all the same."""

import dns.rcode
import pytest

from pipeline.engines.dns.server import Forward
from tests.engines.dns.test_server import asked, decide, reply, with_hosts


@pytest.mark.parametrize(
    "name, rdtype, rows",
    [
        ("NAS.home", "A", ["10.0.0.5"]),
        ("nas.home", "AAAA", ["::2"]),
        ("nas.home", "ANY", ["10.0.0.5", "::2"]),
        ("printer", "A", ["10.0.0.6"]),
        ("printer", "AAAA", []),
        ("dev.local.test", "A", ["127.0.0.1"]),
        ("5.0.0.10.in-addr.arpa", "PTR", ["nas.home."]),
        ("localhost", "A", ["127.0.0.1"]),
        ("app.localhost", "AAAA", ["::1"]),
        ("localhost", "TXT", []),
    ],
)
def test_names_of_the_hosts_file_and_localhost_are_answered(name: str, rdtype: str, rows: list[str]) -> None:
    answer = reply(decide(with_hosts(), asked(name, rdtype)))
    assert answer.rcode() == dns.rcode.NOERROR
    assert [row.to_text() for rrset in answer.answer for row in rrset] == rows


@pytest.mark.parametrize(
    "name, rdtype",
    [
        ("mypc", "A"),
        ("nas.home", "TXT"),
        ("other.home", "A"),
        ("1.0.0.127.in-addr.arpa", "PTR"),
        ("x.in-addr.arpa", "PTR"),
        ("2.0.0.10.in-addr.arpa", "PTR"),
    ],
)
def test_hosts_own_short_name_and_what_the_file_does_not_say_go_upstream(name: str, rdtype: str) -> None:
    assert isinstance(decide(with_hosts(), asked(name, rdtype)), Forward)


def test_new_hosts_replace_the_old_ones() -> None:
    dnsd = with_hosts()
    dnsd.set_hosts({})
    assert isinstance(decide(dnsd, asked("nas.home")), Forward)
    assert isinstance(decide(dnsd, asked("5.0.0.10.in-addr.arpa", "PTR")), Forward)
