"""The Python client, plain and for asyncio, with a daemon that it starts itself."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.client.answers import Event, Policy
from pipeline.client.api import ApiError, RefusedError
from pipeline.client.async_network import AsyncNetwork
from pipeline.client.network import Network
from tests.support.fake_api import FakeApi

POLICY: Policy = {"default": "deny", "rules": [{"action": "allow", "names": ["pypi.org"], "ports": ["443"]}]}
GUEST = "192.168.127.2"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network.start(policy=POLICY, config={"guests": "isolated"}, flags=["-slots", "64"]) as made:
        yield made


def test_a_child_is_ready_and_has_its_policy(network: Network) -> None:
    assert network.version()
    assert network.status()["placement"] == "separate"
    assert network.policy() == POLICY
    assert (network.guests(), network.flows(protocol="tcp")) == ([], [])
    assert "192.168.127.1" in network.leases()


def test_only_this_user_reaches_the_api_of_a_child(network: Network) -> None:
    directory = Path(network.log).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    assert network.url == f"unix://{directory}/api.sock"


def test_a_network_is_found_by_its_url_and_by_the_environment(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Network.find(network.url).policy() == POLICY
    monkeypatch.setenv("GVTAP_API", network.url)
    with Network.find() as found:
        assert found.policy() == POLICY
    assert network.version(), "the end of a client does not end the network"


def test_a_network_that_does_not_run_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="No such file"):
        Network.find(f"unix://{tmp_path}/none")
    with pytest.raises(ApiError, match="No such file"):
        asyncio.run(AsyncNetwork.find(f"unix://{tmp_path}/none"))


def test_forwards_open_and_close_by_words(network: Network) -> None:
    (forward,) = network.expose("0:80")
    assert (forward.remote, forward.protocol) == (f"{GUEST}:80", "tcp")
    assert network.forwards() == [forward]
    network.unexpose(forward.local)
    assert network.forwards() == []
    for word, text in (("x", "is not a forward"), ("80", "is not a forward")):
        with pytest.raises(ApiError, match=text):
            network.expose(word)


def test_names_are_added(network: Network) -> None:
    network.add_zone("lab.test.", {"www": "192.0.2.1"})
    with pytest.raises(RefusedError) as caught:
        network.add_zone("lab.test.", {"www": "nonsense"})
    assert caught.value.status == 400


def test_a_wrong_policy_names_its_key_and_changes_nothing(network: Network) -> None:
    with pytest.raises(RefusedError) as caught:
        network.set_policy({"rules": [{"action": "maybe"}]})
    assert (caught.value.status, caught.value.key) == (400, "rules[0].action")
    assert network.policy() == POLICY


def test_explain_takes_an_address_or_a_name(network: Network) -> None:
    found = network.explain(GUEST, "192.0.2.1", 443)
    assert (found.allowed, found.rule) == (False, "egress-policy.default")
    assert found.passed == (("egress-policy.rules[0]", "names"),)
    assert network.explain(GUEST, "192.0.2.1", 443, name="pypi.org").allowed
    assert network.explain(GUEST, "localhost", 443).rule == "nat_flow_refused_loopback"
    with pytest.raises(RefusedError, match="port"):
        network.explain(GUEST, "192.0.2.1")


def test_events_come_from_the_moment_of_the_call_and_end_with_close(network: Network) -> None:
    with network.events("forward-opened", "forward-closed") as events:
        (forward,) = network.expose("0:81")
        network.unexpose(forward.local)
        opened, closed = next(events), next(events)
        assert (opened.kind, opened.fields["local"]) == ("forward-opened", forward.local)
        assert closed.kind == "forward-closed"
        assert opened.time <= closed.time
        threading.Timer(0.1, events.close).start()
        assert list(events) == []
    with pytest.raises(RefusedError, match="unknown kind"):
        network.events("nonsense")


def test_a_thread_that_reads_events_sees_their_end_when_their_block_ends(network: Network) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            with network.events() as events:
                read = pool.submit(list, events)
                network.expose("0:82")
            assert [event.kind for event in read.result(10)][:1] in ([], ["forward-opened"])
            with pytest.raises(StopIteration):
                next(events)
        for forward in network.forwards():
            network.unexpose(forward.local)


def test_a_flow_that_is_not_there_cannot_be_ended(network: Network) -> None:
    with pytest.raises(RefusedError) as caught:
        network.end_flow("tcp0-12345")
    assert caught.value.status == 404


def test_a_child_that_cannot_start_says_why() -> None:
    for words, flags, config in (
        ('invalid value "x" for flag -mtu', ["-mtu", "x"], {}),
        ("must be allow or deny", [], {"egress-policy": {"default": "x"}}),
    ):
        with pytest.raises(ApiError, match=words):
            Network.start(flags=flags, config=config)


def test_a_child_ends_and_leaves_nothing() -> None:
    network = Network.start(flags=["-slots", "64"])
    process, directory = network.process, Path(network.log).parent
    assert process is not None
    network.close()
    network.close()
    assert process.returncode == 0
    assert not directory.exists()
    with pytest.raises(ApiError):
        network.version()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_daemon_is_an_error_for_who_reads_events(number: signal.Signals) -> None:
    async def run() -> None:
        async with await AsyncNetwork.start(flags=["-slots", "64"]) as network, network.approvals() as asked:
            assert os.path.exists(network.log)
            assert network.process is not None
            network.process.send_signal(number)
            with pytest.raises(ApiError, match="no more events"):
                await anext(asked)

    asyncio.run(run())
    with Network.start(flags=["-slots", "64"]) as network, network.approvals() as approvals:
        assert network.process is not None
        network.process.send_signal(number)
        with pytest.raises(ApiError, match="no more events"):
            next(approvals)


def test_an_event_of_another_shape_is_empty() -> None:
    assert Event.of([1]).kind == ""
    assert Event.of({"kind": "x", "time": "never", "a": 1}).fields == {"a": 1}


@pytest.mark.parametrize("body", [b"[1]", b"{", b'"x"', b"null", b""])
def test_answers_of_another_shape_raise_nothing_but_apierror(tmp_path: Path, body: bytes) -> None:
    server = FakeApi(tmp_path / "api.sock")
    server.body = body
    network = Network(server.url)
    for ask in (network.guests, network.forwards, network.leases, network.flows, network.status):
        with suppress(ApiError):
            ask()
    server.close()


def test_the_asynchronous_client_does_the_same() -> None:
    async def run() -> None:
        async with await AsyncNetwork.start(policy=POLICY, flags=["-slots", "64"]) as network:
            assert await network.version()
            assert (await network.status())["placement"] == "separate"
            assert await network.policy() == POLICY
            assert (await network.guests(), await network.flows()) == ([], [])
            assert "192.168.127.1" in await network.leases()
            await network.add_zone("lab.test.", {"www": "192.0.2.1"})
            async with network.events("forward-opened", "policy-changed") as events:
                (forward,) = await network.expose("0:80")
                assert await network.patch_policy({"default": "allow"}, connections="keep") == 0
                kinds = [(await anext(events)).kind for _ in range(2)]
                assert kinds == ["forward-opened", "policy-changed"]
            assert await network.forwards() == [forward]
            await network.unexpose(forward.local)
            assert (await network.explain(GUEST, "192.0.2.1", 443)).allowed
            with pytest.raises(RefusedError) as caught:
                await network.set_policy({"default": "maybe"})
            assert caught.value.key == "default"
            with pytest.raises(RefusedError, match="no flow"):
                await network.end_flow("tcp0-12345")
            with pytest.raises(ApiError, match="is not a forward"):
                await network.expose("x")
            async with await AsyncNetwork.find(network.url) as found:
                assert (await found.policy())["default"] == "allow"
        with pytest.raises(ApiError, match=r"ended with status 2"):
            await AsyncNetwork.start(flags=["-mtu", "x"])

    asyncio.run(run())
