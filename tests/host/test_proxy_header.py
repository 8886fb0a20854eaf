"""The ends of a connection for its PROXY header."""

import socket

from pipeline.host import proxy_header

LOOPBACK = bytes([127, 0, 0, 1])


def test_an_ipv4_client_of_a_socket_for_both_families_counts_as_ipv4() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as served:
            found = proxy_header.ends(served)
            assert found == (LOOPBACK, client.getsockname()[1], LOOPBACK, port)


def test_a_unix_socket_has_no_ends() -> None:
    ours, theirs = socket.socketpair()
    assert proxy_header.ends(ours) is None
    ours.close()
    theirs.close()
