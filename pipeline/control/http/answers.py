"""Answers of the HTTP API in the original's form: a text with a newline, or JSON as Go writes it."""

from typing import Final

from aiohttp import web

from pipeline.go import text as gotext

PLAIN: Final = {"Content-Type": "text/plain; charset=utf-8"}
READING: Final = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""


class ApiError(Exception):
    """An answer that is an error: HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def json(value: object, status: int = 200) -> web.Response:
    """A value as JSON."""
    body = gotext.dumps(value).encode("utf-8", "replace")
    response = web.Response(status=status, body=body, headers=PLAIN)
    if status == 408:
        response.force_close()
    return response


def error(status: int, text: str) -> web.Response:
    """An error with this status and text."""
    headers = {**PLAIN, "X-Content-Type-Options": "nosniff"}
    response = web.Response(status=status, body=f"{text}\n".encode("utf-8", "replace"), headers=headers)
    if status == 408:
        response.force_close()
    return response
