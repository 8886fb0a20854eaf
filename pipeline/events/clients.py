"""The lines that the supervisor writes to the log about its clients. No subscriber gets them.

Clients are those of the API, and those of sockets that lead into a guest over ssh.
"""

from typing import Final

from pipeline.events.kind import DEBUG, ERROR, INFO, WARNING, Kind, logged

_ERROR: Final = "what went wrong"
_CLIENT: Final = "address of the client"
_REQUEST: Final = "path of the request"
_TIMES: Final = "how often since the last line"

API: Final = (
    logged(
        *("api-refused", WARNING, "API request refused"),
        "A client may not do what it asked for (docs/access.md).",
        client=_CLIENT,
        why="the rule",
    ),
    logged(
        *("api-request-failed", ERROR, "request of the API failed"),
        "A worker could not do what a client asked for.",
        path=_REQUEST,
        error=_ERROR,
    ),
    logged(
        *("api-failed", ERROR, "API failed"),
        "A request met an error of this program.",
        path=_REQUEST,
        error=_ERROR,
        exception="the traceback",
    ),
    logged(
        *("api-bad-request", WARNING, "bad request"),
        "What a client sends is not HTTP, but frames: it takes the endpoint for another one.",
        client=_CLIENT,
        error=_ERROR,
    ),
    logged(
        *("api-malformed-request", DEBUG, "malformed request"),
        "What a client sends is not HTTP.",
        client=_CLIENT,
        error=_ERROR,
    ),
    logged(
        *("api-no-request", DEBUG, "no request within the time"),
        "A client has connected, and sends no whole request.",
        client=_CLIENT,
    ),
    logged(
        *("api-connection-lost", DEBUG, "connection lost"),
        "A client has left before its request was complete.",
        client=_CLIENT,
        error=_ERROR,
    ),
    logged(
        *("api-connection-refused", WARNING, "connection refused, too many"),
        "An endpoint has no place for another connection.",
        client=_CLIENT,
        times=_TIMES,
    ),
    logged(
        *("api-connection-failed", ERROR, "control connection failed"),
        "A connection met an error of this program.",
        error=_ERROR,
    ),
    logged(
        *("api-refusal-not-delivered", DEBUG, "refusal not delivered"),
        "A client did not read why its request was refused.",
        error=_ERROR,
    ),
    logged(
        *("guest-not-attached", ERROR, "guest link not attached"),
        "A request for /connect failed.",
        client=_CLIENT,
        error=_ERROR,
    ),
    logged(
        *("tunnel-not-opened", ERROR, "tunnel not opened"),
        "A request for /tunnel failed.",
        client=_CLIENT,
        to="address and port of the guest",
        error=_ERROR,
    ),
    logged(
        *("tunnel-client-gone", DEBUG, "tunnel's client is gone"),
        "A client has left before it had its tunnel.",
        client=_CLIENT,
        error=_ERROR,
    ),
    logged(
        *("capture-not-started", ERROR, "capture not started"),
        "A request for /capture failed.",
        client=_CLIENT,
        error=_ERROR,
    ),
    logged(
        *("notification-dropped", WARNING, "unable to send notification"),
        "Too many notifications wait.",
        notification="its type",
    ),
    logged(
        *("notifications-lost", WARNING, "notifications lost at the end"),
        "The daemon has ended before all notifications were sent.",
        count="their number",
    ),
    logged("notification-failed", ERROR, "", "A notification cannot be sent. The text says why."),
)

SSH: Final = (
    logged(
        *("socket-forwarded", INFO, "socket forwarded"),
        "A socket of the host leads to one in the guest over ssh.",
        socket="path on the host",
        to="path in the guest",
        user="user in the guest",
    ),
    logged("ssh-connected", INFO, "ssh connection opened", "The guest's ssh server has let the gateway in."),
    logged("ssh-lost", INFO, "ssh connection lost", "It is opened again when needed.", error=_ERROR),
    logged(
        *("ssh-silent", INFO, "guest does not answer ssh yet"),
        "The guest has perhaps not started. The gateway tries again.",
        error=_ERROR,
    ),
    logged(
        *("ssh-key-unchecked", WARNING, "the guest's host key is not checked"),
        "There is no file with known keys.",
        error=_ERROR,
    ),
    logged(
        *("ssh-client-refused", WARNING, "client refused, too many"),
        "A forwarded socket has no place for another client.",
        clients="how many there are",
    ),
    logged(
        *("ssh-client-not-connected", ERROR, "client not connected to the guest"),
        "A client of a forwarded socket has no connection to the guest.",
        error=_ERROR,
    ),
    logged(
        *("ssh-client-lost", DEBUG, "client's connection broke"),
        "A client of a forwarded socket, or its guest, is gone.",
        error=_ERROR,
    ),
)

KINDS: Final[tuple[Kind, ...]] = (*API, *SSH)
