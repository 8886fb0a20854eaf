"""Forwards of a fleet: their keys and values, and what a host makes of them."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engines.fleet import values
from pipeline.engines.fleet.forwards import MAX_FORWARDS, Forwards
from pipeline.engines.fleet.mirror import Entry
from pipeline.engines.fleet.values import Forward, StoredValueError
from tests.engines.fleet.test_view import made

GUEST = "192.168.127.10:80"
KEY = "forward.tcp.8080.any"
WEB = Forward("tcp", ":8080", GUEST)


@pytest.mark.parametrize(
    ("local", "key"),
    [
        (":8080", "forward.tcp.8080.any"),
        ("127.0.0.1:80", "forward.tcp.80.127.0.0.1"),
        ("0.0.0.0:80", "forward.tcp.80.0.0.0.0"),
        ("[::1]:80", "forward.tcp.80.__1"),
        ("[::]:80", "forward.tcp.80.__"),
    ],
)
def test_a_local_address_has_one_key_and_is_read_again(local: str, key: str) -> None:
    assert values.forward_key("tcp", local) == key
    assert values.admits(key)
    forward = Forward("tcp", local, GUEST)
    assert values.forward_of(key, values.forward_bytes(forward)) == forward


@pytest.mark.parametrize(
    ("protocol", "local"),
    [
        ("unix", "/run/x.sock"),
        ("TCP", ":80"),
        ("tcp", "80"),
        ("tcp", ":0"),
        ("tcp", ":65536"),
        ("tcp", ":080"),
        ("tcp", ":http"),
        ("tcp", ":\u0968"),
        ("tcp", "localhost:80"),
        ("tcp", "127.1:80"),
        ("tcp", "::1:80"),
        ("tcp", "[127.0.0.1]:80"),
        ("tcp", "[0:0::1]:80"),
        ("tcp", "[::1%eth0]:80"),
    ],
)
def test_what_is_no_local_address_has_no_key(protocol: str, local: str) -> None:
    with pytest.raises(StoredValueError):
        values.forward_key(protocol, local)


@pytest.mark.parametrize(
    "remote",
    [
        *("", ":80", "192.168.127.10", "192.168.127.10:0", "web:80", "192.168.127.010:80"),
        *("[fd00::1]", "fd00::1:80", "[fd00:0::1]:80", "[fe80::1]:80", "[fd00::1%eth0]:80", "[::]:80"),
        "[::ffff:192.168.127.10]:80",
    ],
)
def test_a_guest_is_named_by_an_address_of_the_network(remote: str) -> None:
    with pytest.raises(StoredValueError):
        values.forward_of(KEY, values.forward_bytes(WEB._replace(remote=remote)))


def test_a_guest_may_be_named_by_its_ipv6_address() -> None:
    web = WEB._replace(remote="[fd00::1]:80")
    assert values.forward_of(KEY, values.forward_bytes(web)) == web


def test_a_value_that_belongs_to_another_key_is_refused() -> None:
    """Else two keys could mean one port."""
    with pytest.raises(StoredValueError, match="is not what"):
        values.forward_of("forward.tcp.8081.any", values.forward_bytes(WEB))


TEXTS = st.sampled_from(["tcp", "udp", ":8080", "[::1]:8080", GUEST, "", ":", "[", "[]:1", "\0"]) | st.text(
    max_size=12
)


# The first characters of all kinds take seconds on a busy machine.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("protocol", "local", "remote"), TEXTS | st.integers())),
    st.sampled_from([KEY, "forward.", "forward.tcp.8080.__1"]),
)
def test_any_object_is_a_forward_of_its_key_or_an_error(found: dict[str, object], key: str) -> None:
    try:
        forward = values.forward_of(key, json.dumps(found).encode())
    except StoredValueError:
        return
    assert values.forward_key(forward.protocol, forward.local) == key


def test_a_host_wants_what_the_store_has() -> None:
    view = made()
    assert not view.forwards.take_changed()
    view.on_entry(Entry(KEY, values.forward_bytes(WEB), 1), 0.0)
    assert view.forwards.take_changed()
    assert view.forwards.wanted() == [WEB]
    view.on_entry(Entry(KEY, values.forward_bytes(WEB), 2), 0.0)
    assert not view.forwards.take_changed()
    view.on_entry(Entry(KEY, None, 3), 0.0)
    assert view.forwards.take_changed()
    assert view.forwards.wanted() == []


def test_a_forward_that_cannot_be_read_is_none() -> None:
    view = made()
    view.on_entry(Entry(KEY, values.forward_bytes(WEB), 1), 0.0)
    view.on_entry(Entry(KEY, b"?", 2), 0.0)
    assert view.forwards.wanted() == []
    assert view.bad_values == 1


def test_the_number_of_forwards_is_bounded() -> None:
    view = made()
    for port in range(1, MAX_FORWARDS + 11):
        forward = Forward("tcp", f":{port}", GUEST)
        key = values.forward_key(forward.protocol, forward.local)
        view.on_entry(Entry(key, values.forward_bytes(forward), port), 0.0)
    assert len(view.forwards.wanted()) == MAX_FORWARDS
    assert view.bad_values == 10


def test_an_empty_store_is_news_for_those_who_have_forwards_of_an_earlier_run() -> None:
    forwards = Forwards()
    assert not forwards.take_changed()
    forwards.on_online()
    assert forwards.take_changed()
    assert not forwards.take_changed()
