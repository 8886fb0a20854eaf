"""The connection of a command to the API of a running daemon: where it is, and one request.

The address is that of ``-api``, else of the environment variable GVTAP_API, else the first control endpoint
of the file that ``-config`` names.
"""

import http.client
import json
import os
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from pipeline.config import merge, options
from pipeline.config.file import ConfigError
from pipeline.go import flags
from pipeline.links.addresses import unix_path
from pipeline.system import inet, small_file

VARIABLE: Final = "GVTAP_API"
TIMEOUT: Final = 10.0
"""Seconds to connect, and to get the head of an answer."""
MAX_TEXT: Final = 4096
"""Bytes of an error's text that are shown."""
ALLOWED: Final = "unix:///path, tcp://host:port"


class ApiError(Exception):
    """The daemon cannot be asked, or refuses. The text says why."""


class Answer(NamedTuple):
    """An answer, whose body has not been read, and its socket."""

    response: http.client.HTTPResponse
    sock: socket.socket


class Api:
    """One daemon's API."""

    def __init__(self, url: str, token: str = "") -> None:
        """Raises ApiError for a URL that is wrong."""
        self.url = url
        self._token = token
        self._parts = urlsplit(url)
        try:
            port = self._parts.port
        except ValueError:
            port = None
        is_unix = self._parts.scheme == "unix" and unix_path(url) != ""
        if not is_unix and not (self._parts.scheme in inet.TCP and port):
            raise ApiError(f"-api {url!r} is wrong (allowed: {ALLOWED})")

    def get(self, path: str, fields: Sequence[tuple[str, str]] = ()) -> Answer:
        """The answer to GET, whose body has not been read. Raises ApiError unless its status is 200."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        query = f"?{urlencode(fields)}" if fields else ""
        connection = http.client.HTTPConnection("localhost")
        try:
            connection.sock = sock = self._connect()
            connection.request("GET", f"{path}{query}", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                text = response.read(MAX_TEXT).decode("utf-8", "replace").strip()
                raise ApiError(text or f"{self.url} answers {response.status} {response.reason}")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ApiError(f"cannot ask the daemon at {self.url}: {error}") from error
        except ApiError:
            connection.close()
            raise
        return Answer(response, sock)

    def table(self, path: str) -> dict[str, object]:
        """The JSON object at a path. Raises ApiError."""
        with self.get(path).response as response:
            try:
                found = json.loads(response.read())
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise ApiError(f"{self.url}{path} has no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ApiError(f"{self.url}{path} has no JSON object")
        return found

    def _connect(self) -> socket.socket:
        if self._parts.scheme != "unix":
            return socket.create_connection(
                (self._parts.hostname or "localhost", self._parts.port or 0), TIMEOUT
            )
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(unix_path(self.url))
        except OSError:
            sock.close()
            raise
        return sock


def find(parsed: flags.Parsed) -> Api:
    """The API that the flags of options.API name. Raises ApiError."""
    url, token_file = parsed.text("api") or os.environ.get(VARIABLE, ""), parsed.text("api-token-file")
    if path := parsed.text("config"):
        try:
            config, _ = merge.build(flags.parse(options.START, ["-config", path]))
        except ConfigError as error:
            raise ApiError(f"-config {path}: {error}") from None
        token_file = token_file or config.access.api_token_file
        if not url:
            places = [*config.links.listen, *filter(None, [config.links.services])]
            usable = [place for place in places if urlsplit(place).scheme in ("unix", *inet.TCP)]
            if not usable:
                raise ApiError(f"-config {path} names no control endpoint (allowed: {ALLOWED}): use -api")
            url = usable[0]
    if not url:
        raise ApiError(f"where is the daemon? Use -api URL ({ALLOWED}), -config FILE or ${VARIABLE}")
    return Api(url, _token(token_file))


def _token(path: str) -> str:
    if not path:
        return ""
    try:
        return small_file.read(path).decode("ascii").strip()
    except (OSError, ValueError, small_file.FileError) as error:
        raise ApiError(f"token file {path} cannot be read: {error}") from error
