"""A server of HTTP/3: python -m tests.support.http3 CERTIFICATE KEY. Its page is PAGE."""

import asyncio
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

PAGE = b"<title>a page over HTTP/3</title>"


class Server(QuicConnectionProtocol):
    """One connection."""

    _http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Answer requests."""
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        for found in self._http.handle_event(event) if self._http is not None else ():
            if isinstance(found, HeadersReceived):
                headers = [(b":status", b"200"), (b"content-type", b"text/html")]
                self._http.send_headers(found.stream_id, headers)
                self._http.send_data(found.stream_id, PAGE, end_stream=True)
        self.transmit()


async def main() -> None:
    """Serve port 443 until this process ends."""
    settings = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    settings.load_cert_chain(sys.argv[1], sys.argv[2])
    await serve("0.0.0.0", 443, configuration=settings, create_protocol=Server)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
