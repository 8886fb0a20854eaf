"""The sockets of the API, the metrics and the web page: binds them, and has the control plane serve them."""

import socket

import structlog

from pipeline.config.model import Links
from pipeline.control.plane import ControlPlane
from pipeline.daemon.given import Given
from pipeline.daemon.own_files import OwnFiles
from pipeline.links import addresses, inherited, protocols

API = ""
"""The protocol of these places (see Given)."""


class Endpoints:
    """These sockets, as the configuration has them. It owns them."""

    def __init__(
        self,
        links: Links,
        files: OwnFiles,
        passed: inherited.Inherited,
        given: Given,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """files: gets the socket files. passed: what a parent has passed. given: sockets that exist."""
        self._links = links
        self._files = files
        self._passed = passed
        self._given = given
        self._log = log
        self.open: list[tuple[str, socket.socket]] = []
        """URL and socket of those that are open."""

    def claim(self) -> None:
        """Take the sockets that a parent has passed. Raises AddressError."""
        for url in self._urls():
            if url.startswith(inherited.SCHEME) and (API, url) not in self._given:
                self._passed.claim(url)

    def reserve(self) -> None:
        """Bind the sockets that are not there yet, so that nothing can fail later. Raises AddressError."""
        for url in self._urls():
            if (API, url) not in self._given:
                self._given.reserve((API, url), self._bind(url))

    def _urls(self) -> list[str]:
        links = self._links
        urls = (*links.listen, *links.listen_connect, links.services, links.metrics, links.web)
        return [url for url in urls if url]

    def serve_guests(self, plane: ControlPlane) -> None:
        """Open those where guests may attach. Raises AddressError."""
        for url in self._links.listen:
            sock = self._listen(url)
            plane.fronts.serve(sock, guests=True)
            self._log.info(f"listening {addresses.bound_url(sock, url)}", kind="listening")
        for url in self._links.listen_connect:
            sock = self._listen(url)
            plane.fronts.serve_connect(sock)
            bound = addresses.bound_url(sock, url)
            self._log.info(f"listening {bound}", kind="listening", protocol="connect")

    def serve_others(self, plane: ControlPlane) -> None:
        """Open all others. Raises AddressError."""
        if url := self._links.services:
            sock = self._listen(url)
            plane.fronts.serve(sock, guests=False)
            bound = addresses.bound_url(sock, url)
            self._log.info(f"enabling services API. Listening {bound}", kind="listening")
        if url := self._links.metrics:
            self._serve_metrics(plane, url)
        if url := self._links.web:
            self._serve_web(plane, url)

    def _serve_metrics(self, plane: ControlPlane, url: str) -> None:
        listener = self._listen(url)
        plane.fronts.serve_metrics(listener)
        self._log.info("metrics", url=addresses.bound_url(listener, url))
        if addresses.is_open_to_others(listener):
            self._log.warning("everyone who reaches this address can read the metrics", url=url)

    def _serve_web(self, plane: ControlPlane, url: str) -> None:
        listener = self._listen(url)
        page = addresses.bound_url(listener, url).replace("tcp://", "http://", 1)
        # The token stands after a #, so no browser sends it with a request (pipeline.control.web.login).
        plane.fronts.serve_web(
            listener, lambda token: self._log.info("web page", url=f"{page}/#token={token}")
        )

    def _listen(self, url: str) -> socket.socket:
        sock = self._given.take((API, url)) or self._bind(url)
        self._files.keep(addresses.socket_path(url))
        self.open.append((url, sock))
        return sock

    def _bind(self, url: str) -> socket.socket:
        if not url.startswith(inherited.SCHEME):
            return addresses.listen(url)
        sock = self._passed.take(url)
        protocols.check_kind(sock, socket.SOCK_STREAM, url)
        return sock

    def close(self) -> None:
        """Close all."""
        for _, sock in self.open:
            sock.close()
        self.open.clear()
