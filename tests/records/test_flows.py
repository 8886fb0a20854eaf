"""The ends of a flow: from a key and back, and what is kept of them."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records.flows import _KNOWN, _MAX_KNOWN, Ends, flow_key
from pipeline.wire import ip

ADDRESSES = st.one_of(st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 32) - 1).map(ip.from_ipv4))
PORTS = st.integers(0, 0xFFFF)


@given(guest=ADDRESSES, guest_port=PORTS, remote=ADDRESSES, remote_port=PORTS)
def test_the_ends_of_a_key_are_those_that_it_was_made_of(
    guest: int, guest_port: int, remote: int, remote_port: int
) -> None:
    key = flow_key(guest, guest_port, remote, remote_port)
    for _ in range(2):
        ends = Ends.of(key)
        assert (ends.guest_addr, ends.guest_port) == (guest, guest_port)
        assert (ends.remote_addr, ends.remote_port) == (remote, remote_port)
        assert ends.key() == key
        assert ends.address_sum() == (guest + remote) % 0xFFFF
        assert ends.addresses6() == remote.to_bytes(16, "big") + guest.to_bytes(16, "big")


def test_the_number_of_keys_that_are_kept_is_bounded() -> None:
    keys = [flow_key(1, port, 2, 3) for port in range(3 * _MAX_KNOWN)]
    found = [Ends.of(key) for key in keys]
    assert [ends.guest_port for ends in found] == list(range(3 * _MAX_KNOWN))
    assert len(_KNOWN) <= _MAX_KNOWN
    assert Ends.of(keys[-1]) is found[-1]
