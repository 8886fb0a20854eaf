"""New settings for a running program: what is asked of whom, and what a refusal leaves."""

import asyncio
import os
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from pipeline.config import merge, options
from pipeline.config.errors import ConfigError
from pipeline.config.model import Config, EgressPolicy, GuestApi, PolicyRule, PortForward
from pipeline.control.forward_shares import ForwardShares
from pipeline.control.forwarder import Forwarder
from pipeline.control.http.access import Access
from pipeline.control.reload import LiveSettings, ReloadError
from pipeline.control.workers import GoneError, RefusedError, RequestError
from pipeline.go import flags
from tests.control.endpoint import Workers, refuse
from tests.support.configured import changed

NAMES = ("ingress", "demux", "tcp0", "egress0", "resolver", "listen")
LOG = structlog.get_logger()
ONE, TWO, THREE = (PortForward("tcp", f"127.0.0.1:{n}", "192.168.127.2:80") for n in (9001, 9002, 9003))
UDP = PortForward("udp", "127.0.0.1:9004", "192.168.127.2:53")

TAKEN = "listen tcp 127.0.0.1:9003: bind: address already in use"


class Rig:
    """The supervisor's parts over workers that only record."""

    def __init__(self, *forwards: PortForward) -> None:
        parsed = flags.parse(options.START, ["-ssh-port", "-1"])
        self.config = changed(merge.build(parsed, resolv_conf=os.devnull)[0], forwards=forwards)
        self.workers = Workers()
        channels: Any = SimpleNamespace(request=self.workers, channels=dict.fromkeys(NAMES))
        self.shares = ForwardShares(self.config.limits, lambda _name: None)
        self.forwarder = Forwarder(self.workers, shares=self.shares)
        self.access = Access(LOG, token="")
        self.sockets = SimpleNamespace()
        self.live = LiveSettings(self.config, channels, self.forwarder, self.sockets, LOG)  # type: ignore[arg-type]

    async def start(self) -> None:
        for forward in self.config.access.forwards:
            await self.forwarder.expose_configured(forward)
        self.workers.asked.clear()

    async def change(self, **settings: object) -> None:
        await self.live.change(changed(self.config, **settings), self.access, self.shares)

    def opened(self) -> list[tuple[str, str]]:
        return [(forward.local, forward.remote) for forward in self.forwarder.all()]

    def reloads(self) -> list[str]:
        return [worker for worker, op in self.workers.asked if op["op"] == "reload"]


def test_the_resolver_may_refuse_so_it_comes_first_and_all_others_follow() -> None:
    async def run() -> None:
        rig = Rig()
        await rig.change(max_forwards=3, guest_api=GuestApi(enabled=False))
        assert rig.reloads()[:2] == ["resolver", "ingress"]
        assert sorted(rig.reloads()) == sorted(NAMES)
        for _, op in rig.workers.asked:
            config = pickle.loads(op["config"])
            assert isinstance(config, Config)
            assert config.limits.max_forwards == 3
        assert rig.shares.max_forwards == 3
        with pytest.raises(Exception, match="guests may not use the port forwarder"):
            rig.access.check_guest("192.168.127.2:1")

    asyncio.run(run())


def test_forwards_follow_the_file_and_those_of_the_api_stay() -> None:
    async def run() -> None:
        rig = Rig(ONE, TWO)
        await rig.start()
        await rig.forwarder.expose("tcp", "127.0.0.1:9009", "192.168.127.2:9")
        moved = other(TWO)
        await rig.change(forwards=(moved, THREE))
        assert rig.opened() == [
            (TWO.local, "192.168.127.3:80"),
            (THREE.local, THREE.remote),
            ("127.0.0.1:9009", "192.168.127.2:9"),
        ]
        await rig.change(forwards=(moved, THREE))
        assert len(rig.opened()) == 3

    asyncio.run(run())


def other(forward: PortForward) -> PortForward:
    return PortForward(forward.protocol, forward.local, "192.168.127.3:80")


def test_a_forward_whose_port_the_system_chose_stays_and_closes_like_others() -> None:
    async def run() -> None:
        any_port = PortForward("tcp", "127.0.0.1:0", "192.168.127.2:80")
        rig = Rig(any_port)
        rig.workers.answers["expose"] = {"port": 40001}
        await rig.start()
        await rig.change(forwards=(any_port,))
        assert rig.opened() == [("127.0.0.1:40001", any_port.remote)]
        await rig.change(forwards=())
        assert rig.opened() == []

    asyncio.run(run())


def test_a_forward_that_a_client_has_closed_opens_again_and_one_it_has_taken_over_stays() -> None:
    async def run() -> None:
        rig = Rig(ONE, TWO)
        await rig.start()
        await rig.forwarder.unexpose("tcp", ONE.local)
        await rig.forwarder.unexpose("tcp", TWO.local)
        await rig.forwarder.expose("tcp", TWO.local, "192.168.127.7:7")
        await rig.change(forwards=(ONE,))
        assert rig.opened() == [(ONE.local, ONE.remote), (TWO.local, "192.168.127.7:7")]

    asyncio.run(run())


@pytest.mark.parametrize("refuser", ["listen", "resolver"])
def test_a_refusal_leaves_everything_as_it_was(refuser: str) -> None:
    async def run() -> None:
        rig = Rig(ONE, TWO)
        await rig.start()
        before = rig.opened()
        if refuser == "resolver":
            rig.workers.answers["reload"] = refuse("stack.dns[0]: wrong")
        else:
            taken = RefusedError(TAKEN)
            rig.workers.answers["expose"] = lambda op: taken if op["local"] == THREE.local else {"ok": True}
        with pytest.raises(ReloadError) as error:
            await rig.change(
                forwards=(other(TWO), UDP, THREE), max_forwards=1, guest_api=GuestApi(enabled=False)
            )
        assert (
            str(error.value)
            == {
                "resolver": "stack.dns[0]: wrong",
                "listen": f"stack.forwards: {THREE.local}: {TAKEN}",
            }[refuser]
        )
        assert rig.opened() == before
        assert rig.reloads() == ["resolver"] * (refuser == "resolver")
        assert rig.shares.max_forwards == rig.config.limits.max_forwards
        rig.access.check_guest("192.168.127.2:1")
        # The next reload starts from what is there.
        rig.workers.answers = {}
        await rig.change(forwards=(THREE,))
        assert rig.opened() == [(THREE.local, THREE.remote)]

    asyncio.run(run())


def test_a_resolver_whose_answer_is_late_gets_the_old_settings_back() -> None:
    async def run() -> None:
        rig = Rig(ONE)
        await rig.start()
        late = [RequestError("worker resolver did not answer reload within 5 s")]
        rig.workers.answers["reload"] = lambda _op: late.pop() if late else {"ok": True}
        with pytest.raises(ReloadError, match="did not answer"):
            await rig.change(max_forwards=3)
        assert rig.reloads() == ["resolver", "resolver"]
        limits = [
            pickle.loads(op["config"]).limits.max_forwards
            for _, op in rig.workers.asked
            if op["op"] == "reload"
        ]
        assert limits == [3, rig.config.limits.max_forwards]

    asyncio.run(run())


def test_a_forward_that_cannot_be_closed_is_a_refusal() -> None:
    async def run() -> None:
        rig = Rig(ONE, TWO)
        await rig.start()
        gone = RequestError("worker listen did not answer unexpose within 5 s")
        rig.workers.answers["unexpose"] = lambda op: gone if op["local"] == TWO.local else {"ok": True}
        with pytest.raises(
            ReloadError, match=r"^stack\.forwards: 127\.0\.0\.1:9002: worker listen did not answer"
        ):
            await rig.change(forwards=())
        assert rig.opened() == [(ONE.local, ONE.remote), (TWO.local, TWO.remote)]

    asyncio.run(run())


def test_a_udp_port_that_was_just_closed_is_tried_again() -> None:
    async def run() -> None:
        rig = Rig(UDP)
        await rig.start()
        busy = [RefusedError("listen udp 127.0.0.1:9004: bind: address already in use")] * 2
        rig.workers.answers["expose"] = lambda _op: busy.pop() if busy else {"ok": True}
        await rig.change(forwards=(other(UDP),))
        assert rig.opened() == [(UDP.local, "192.168.127.3:80")]

    asyncio.run(run())


def test_a_worker_that_does_not_answer_is_reported_and_the_others_have_the_settings() -> None:
    async def run() -> None:
        rig = Rig()
        silent = RequestError("worker tcp0 did not answer reload within 5 s")
        real = rig.workers.__call__

        async def ask(worker: str, request: Any, fds: Any = ()) -> Any:
            if worker == "tcp0":
                raise silent
            return await real(worker, request, fds)

        channels: Any = SimpleNamespace(request=ask, channels=dict.fromkeys(NAMES))
        live = LiveSettings(rig.config, channels, rig.forwarder, rig.sockets, LOG)  # type: ignore[arg-type]
        with structlog.testing.capture_logs() as lines:
            await live.change(rig.config, rig.access, rig.shares)
        assert lines == [
            {
                "event": "a worker has not taken the new settings",
                "log_level": "error",
                "of": "tcp0",
                "error": str(silent),
            }
        ]
        assert sorted(rig.reloads()) == sorted(set(NAMES) - {"tcp0"})

    asyncio.run(run())


DENY, OTHER = EgressPolicy("deny"), EgressPolicy("deny", (PolicyRule("allow", ports=((443, 443),)),))


async def always(policy: EgressPolicy) -> EgressPolicy:
    return policy


def test_the_policy_of_the_api_stays_until_that_of_the_file_changes() -> None:
    async def run() -> None:
        rig = Rig()
        await rig.live.change_policy(lambda _before: always(DENY), cut=True)
        await rig.change(max_forwards=3)
        assert rig.live.policy == DENY
        await rig.change(egress_policy=OTHER)
        assert rig.live.policy == OTHER
        await rig.live.change_policy(lambda _before: always(DENY), cut=True)
        await rig.change(egress_policy=OTHER)
        assert rig.live.policy == DENY
        await rig.change()
        assert rig.live.policy == EgressPolicy()

    asyncio.run(run())


def test_flows_end_only_if_the_policy_has_changed() -> None:
    async def run() -> None:
        rig = Rig()
        rig.workers.answers["end_forbidden"] = {"ended": 3}
        await rig.change(max_forwards=3)
        assert "end_forbidden" not in [op["op"] for _, op in rig.workers.asked]
        await rig.change(egress_policy=DENY)
        assert [worker for worker, op in rig.workers.asked if op["op"] == "end_forbidden"] == ["egress0"]
        assert await rig.live.change_policy(lambda _before: always(OTHER), cut=True) == 3
        assert await rig.live.change_policy(lambda _before: always(DENY), cut=False) == 0

    asyncio.run(run())


def test_a_policy_with_names_needs_the_name_server() -> None:
    async def run() -> None:
        rig = Rig()
        await rig.change(disable=("dns",))
        rig.workers.asked.clear()
        named = EgressPolicy("deny", (PolicyRule("allow", names=("a.test",)),))
        with pytest.raises(ConfigError, match=r"egress-policy.rules\[0\].names needs"):
            await rig.live.change_policy(lambda _before: always(named), cut=True)
        assert (rig.live.policy, rig.workers.asked) == (EgressPolicy(), [])

    asyncio.run(run())


def test_a_worker_that_has_not_taken_the_policy_is_named() -> None:
    async def run() -> None:
        rig = Rig()
        answers = {"resolver": {}, "ingress": {}}
        original = rig.workers.__call__

        async def ask(worker: str, op: Any, fds: Any = ()) -> Any:
            if op.NAME == "reload" and worker not in answers:
                raise RequestError("gone")
            return await original(worker, op, fds)

        rig.live = LiveSettings(
            *(rig.config, SimpleNamespace(request=ask, channels=dict.fromkeys(NAMES))),  # type: ignore[arg-type]
            *(rig.forwarder, rig.sockets, LOG),  # type: ignore[arg-type]
        )
        with pytest.raises(RequestError, match="demux, tcp0, egress0, listen"):
            await rig.live.change_policy(lambda _before: always(DENY), cut=False)

    asyncio.run(run())


def test_a_worker_that_has_died_does_not_make_a_change_fail() -> None:
    async def run() -> None:
        rig = Rig()
        original = rig.workers.__call__

        async def ask(worker: str, op: Any, fds: Any = ()) -> Any:
            if worker == "egress0":
                raise GoneError("worker egress0 is gone")
            return await original(worker, op, fds)

        rig.live = LiveSettings(
            *(rig.config, SimpleNamespace(request=ask, channels=dict.fromkeys(NAMES))),  # type: ignore[arg-type]
            *(rig.forwarder, rig.sockets, LOG),  # type: ignore[arg-type]
        )
        with structlog.testing.capture_logs() as lines:
            assert await rig.live.change_policy(lambda _before: always(DENY), cut=True) == 0
        assert (lines, rig.live.policy) == ([], DENY)
        assert rig.live.config.access.egress_policy == DENY, "its successor gets these"

    asyncio.run(run())
