"""The connection of a command to the API of a running daemon: where it is, and one request.

The address is that of ``-api``, else of the environment variable GVTAP_API, else the first control endpoint
of the file that ``-config`` names, else the socket at one of the usual places.
"""

import http.client
import json
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from pipeline.config import merge, options
from pipeline.config.errors import ConfigError
from pipeline.go import flags
from pipeline.links.addresses import unix_path
from pipeline.system import inet, small_file

VARIABLE: Final = "GVTAP_API"
TIMEOUT: Final = 10.0
"""Seconds to connect, and to get the head of an answer."""
MAX_TEXT: Final = 4096
"""Bytes of an error's text that are shown."""
MAX_ANSWER: Final = 64 << 20
"""Bytes of an answer in JSON."""
ALLOWED: Final = "unix:///path, tcp://host:port"
USUAL: Final = "gvtap-pipeline/api.sock"
"""Where a daemon has its API by convention, below $XDG_RUNTIME_DIR or /run. contrib/systemd uses it."""


class ApiError(Exception):
    """The daemon cannot be asked, or refuses. The text says why."""


class RefusedError(ApiError):
    """The daemon has answered with another status than 200. key: what is wrong in the request, if it says."""

    def __init__(self, text: str, status: int = 0, key: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.key = key


class Answer(NamedTuple):
    """An answer, whose body has not been read, and its socket."""

    response: http.client.HTTPResponse
    sock: socket.socket


def cause(error: Exception) -> str:
    """What went wrong, without Python's number of it."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


class Api:
    """One daemon's API."""

    def __init__(self, url: str, token: str = "") -> None:
        """Raises ApiError for a URL that is wrong."""
        self.timeout = TIMEOUT
        self.url = url
        self.token = token
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
        query = f"?{urlencode(fields)}" if fields else ""
        return self._ask("GET", f"{path}{query}")

    def post(self, path: str, body: Mapping[str, object]) -> object:
        """The JSON that POST is answered with, None if the answer is empty. Raises ApiError."""
        return self._json(self._ask("POST", path, json.dumps(body)), path)

    def put(self, path: str, body: object) -> object:
        """The same for PUT."""
        return self.ask("PUT", path, body)

    def ask(self, method: str, target: str, body: object = None) -> object:
        """The JSON that a request is answered with, None if the answer is empty. Raises ApiError."""
        text = None if body is None else json.dumps(body)
        return self._json(self._ask(method, target, text), target)

    def delete(self, path: str) -> None:
        """Ask for DELETE. Raises ApiError."""
        self._json(self._ask("DELETE", path), path)

    def text(self, path: str, fields: Sequence[tuple[str, str]] = ()) -> str:
        """The text at a path, such as /metrics. Raises ApiError."""
        return self._body(self.get(path, fields), path).decode("utf-8", "replace")

    def read(self, path: str, fields: Sequence[tuple[str, str]] = ()) -> object:
        """The JSON at a path, None if it is empty. Raises ApiError."""
        return self._json(self.get(path, fields), path)

    def table(self, path: str, fields: Sequence[tuple[str, str]] = ()) -> dict[str, object]:
        """The JSON object at a path. Raises ApiError."""
        found = self.read(path, fields)
        if not isinstance(found, dict):
            raise ApiError(f"{self.url}{path} has no JSON object")
        return found

    def _ask(self, method: str, target: str, body: str | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("localhost")
        try:
            connection.sock = sock = self._connect()
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            if response.status != 200:
                text = response.read(MAX_TEXT).decode("utf-8", "replace").strip()
                words = text or f"{self.url} answers {response.status} {response.reason}"
                raise refusal(self.url, target, response.status, words)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ApiError(f"cannot ask the daemon at {self.url}: {cause(error)}") from error
        except ApiError:
            connection.close()
            raise
        return Answer(response, sock)

    def _json(self, answer: Answer, path: str) -> object:
        text = self._body(answer, path)
        try:
            found: object = json.loads(text) if text else None
        except (ValueError, RecursionError) as error:
            raise ApiError(f"{self.url}{path} has no JSON: {error}") from error
        return found

    def _body(self, answer: Answer, path: str) -> bytes:
        """The whole body."""
        with answer.sock, answer.response as response:
            try:
                body = response.read(MAX_ANSWER + 1)
                missing = response.length
            except (OSError, http.client.HTTPException) as error:
                raise ApiError(f"{self.url}{path}: the answer is not complete: {cause(error)}") from error
        if len(body) > MAX_ANSWER:
            raise ApiError(f"{self.url}{path}: the answer is longer than {MAX_ANSWER} bytes")
        if missing:
            raise ApiError(f"{self.url}{path}: {missing} bytes of the answer are missing")
        return body

    def _connect(self) -> socket.socket:
        if self._parts.scheme != "unix":
            return socket.create_connection(
                (self._parts.hostname or "localhost", self._parts.port or 0), self.timeout
            )
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(self.timeout)
        try:
            sock.connect(unix_path(self.url))
        except OSError:
            sock.close()
            raise
        return sock


def refusal(url: str, target: str, status: int, text: str) -> RefusedError:
    """What an answer with another status than 200 means. text: of its body."""
    if status == 404 and text == "404 page not found":
        words = f"the daemon at {url} has no {target.partition('?')[0]}: it is older than this program"
        return RefusedError(words, status)
    key, words = _problem(text) if text.startswith("{") else ("", text)
    advice = " (use -api-token-file FILE)" if status == 401 else ""
    return RefusedError(f"{key}: {words}" if key else f"{words}{advice}", status, key)


def _problem(text: str) -> tuple[str, str]:
    """Key and words of an error that is an object of JSON, as those of /policy are."""
    try:
        found = json.loads(text)
    except ValueError:
        return "", text
    return str(found.get("key", "")), str(found.get("error", text))


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
    if not url and not (url := _usual()):
        missing = f"no socket at {' or '.join(_usual_places())}"
        raise ApiError(
            f"where is the daemon? Use -api URL ({ALLOWED}), -config FILE or ${VARIABLE}; {missing}"
        )
    return Api(url, _token(token_file))


def _usual_places() -> list[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return [os.path.join(directory, USUAL) for directory in (runtime, "/run") if directory]


def _usual() -> str:
    """The URL of the socket at the first of the usual places that has one, "" if none has."""
    for path in _usual_places():
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                return f"unix://{quote(path)}"
        except OSError:
            continue
    return ""


def _token(path: str) -> str:
    if not path:
        return ""
    try:
        return small_file.read(path).decode("ascii").strip()
    except (OSError, ValueError, small_file.FileError) as error:
        raise ApiError(f"token file {path} cannot be read: {error}") from error
