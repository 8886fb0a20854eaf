"""Begins the handshake that a proxy speaks."""

from pipeline.engines.proxy.handshake import Destination, Handshake
from pipeline.engines.proxy.http_connect import HttpConnect
from pipeline.engines.proxy.socks5 import Socks5
from pipeline.engines.proxy.via import SOCKS5, Via


def begin(via: Via, destination: Destination) -> Handshake:
    """The handshake with this proxy for a tunnel to the destination."""
    return Socks5(via, destination) if via.protocol == SOCKS5 else HttpConnect(via, destination)
