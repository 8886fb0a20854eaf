"""Sessions with a real NATS server on loopback that wants TLS, an nkey or a certificate (docs/fleet.md)."""

import asyncio
import datetime
import ipaddress
import re
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

pytest.importorskip("nats")
pytest.importorskip("nkeys")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.config.model import Fleet
from pipeline.engines.fleet.entries import NO_KEY
from pipeline.engines.fleet.mirror import Entry
from pipeline.fleet.store import ERRORS, Access, Session
from tests.support.nats import LocalServer, missing, seed

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

DOCS = Path(__file__).resolve().parents[2] / "docs" / "fleet.md"
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates, and keeps them as files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = directory / f"{name}.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        made = self._certificate(self._name, self._key).add_extension(constraints, critical=True)
        self.path.write_bytes(_pem(made.sign(self._key, hashes.SHA256())))

    def _certificate(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(self._name)
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return made.not_valid_before(now - DAY).not_valid_after(now + DAY)

    def sign(self, name: str) -> tuple[str, str]:
        """Certificate and key of a server or client on loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = made.add_extension(x509.SubjectAlternativeName(places), critical=False)
        paths = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        paths[0].write_bytes(_pem(made.sign(self._key, hashes.SHA256())))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(
            key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        )
        return str(paths[0]), str(paths[1])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def documented(certificate: str, key: str, public: str) -> str:
    """The servers' configuration of docs/fleet.md, with these files and this user."""
    (block,) = re.findall(r"```\n# /etc/nats-server.conf\n(tls .*?)```", DOCS.read_text(), re.DOTALL)
    for text, by in (
        ("/etc/nats/server.pem", certificate),
        ("/etc/nats/server.key", key),
        ("U...", public),
    ):
        assert block.count(text) == 1, text
        block = block.replace(text, by)
    return str(block)


def settings(server: LocalServer, scheme: str, **more: str) -> Fleet:
    files = {f"fleet_{name}": "" for name in ("credentials", "nkey", "ca", "certificate", "key")} | more
    url = f"{scheme}://localhost:{server.port}"
    return Fleet(fleet_servers=url, fleet_host="alpha", fleet_network="gvtap", fleet_ttl=90, **files)


def with_session(fleet: Fleet, do: Callable[[Session], Coroutine[None, None, None]]) -> None:
    """Do something in a session. Raises one of ERRORS if there can be none."""

    async def scenario() -> None:
        access = Access.of(fleet)
        session = Session(access)
        try:
            await session.open(access.servers[0])
            await do(session)
        finally:
            await session.close()

    asyncio.run(asyncio.wait_for(scenario(), 60.0))


async def everything(session: Session) -> None:
    """What a host does in its life."""
    entries: list[Entry | None] = []
    await session.watch(entries.append)
    assert entries == [None]
    assert await session.write("host.alpha", b"one", NO_KEY)
    assert not await session.write("host.alpha", b"two", NO_KEY), "compare-and-set"
    async with asyncio.timeout(10.0):
        while len(entries) < 2:
            await asyncio.sleep(0.01)
    (entry,) = entries[1:]
    assert entry is not None
    assert (entry.key, entry.value) == ("host.alpha", b"one")
    assert await session.write("host.alpha", b"two", entry.revision)
    await session.publish("gvtap.gvtap.alpha.lease-given", b"{}")
    assert await session.write("host.alpha", None, None)
    assert await session.write("host.alpha", b"again", NO_KEY), "over the marker of a deleted key"
    await session.remove_markers()
    assert not session.lost.is_set()


async def nothing(session: Session) -> None:
    """Only connect."""


def test_tls_and_nkey_as_the_documentation_has_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    path, public = seed(tmp_path, "alpha")
    with LocalServer(tmp_path, documented(*authority.sign("server"), public)) as server:
        with_session(settings(server, "tls", fleet_ca=str(authority.path), fleet_nkey=path), everything)


def test_a_host_may_write_only_where_the_documentation_lets_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    path, public = seed(tmp_path, "alpha")

    async def elsewhere(session: Session) -> None:
        with pytest.raises(ERRORS):
            await session.js.publish("$KV.other.host.alpha", b"", timeout=1.0)

    with LocalServer(tmp_path, documented(*authority.sign("server"), public)) as server:
        with_session(settings(server, "tls", fleet_ca=str(authority.path), fleet_nkey=path), elsewhere)


def test_a_server_of_another_authority_is_refused(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    path, public = seed(tmp_path, "alpha")
    with (
        LocalServer(tmp_path, documented(*other.sign("server"), public)) as server,
        pytest.raises(ERRORS, match="certificate verify failed"),
    ):
        with_session(settings(server, "tls", fleet_ca=str(authority.path), fleet_nkey=path), nothing)


@pytest.mark.parametrize("has_seed", [False, True])
def test_a_host_that_the_server_does_not_know_is_refused(tmp_path: Path, has_seed: bool) -> None:
    authority = Authority(tmp_path, "ca")
    _, public = seed(tmp_path, "alpha")
    stranger, _ = seed(tmp_path, "stranger")
    given = {"fleet_nkey": stranger} if has_seed else {}
    with (
        LocalServer(tmp_path, documented(*authority.sign("server"), public)) as server,
        pytest.raises(ERRORS, match=r"(?i)authorization|authentication"),
    ):
        with_session(settings(server, "tls", fleet_ca=str(authority.path), **given), nothing)


def test_a_server_with_tls_takes_nobody_without(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    path, public = seed(tmp_path, "alpha")
    with (
        LocalServer(tmp_path, documented(*authority.sign("server"), public)) as server,
        pytest.raises(ERRORS),
    ):
        with_session(settings(server, "nats", fleet_nkey=path), nothing)


@pytest.mark.parametrize("certified", [False, True])
def test_a_server_may_want_the_certificate_of_a_host(tmp_path: Path, certified: bool) -> None:
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.sign("server")
    config = (
        f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{authority.path}", verify: true }}'
    )
    own, own_key = authority.sign("alpha")
    given = {"fleet_certificate": own, "fleet_key": own_key} if certified else {}
    with LocalServer(tmp_path, config) as server:
        fleet = settings(server, "tls", fleet_ca=str(authority.path), **given)
        if certified:
            with_session(fleet, everything)
        else:
            with pytest.raises(ERRORS):
                with_session(fleet, nothing)
