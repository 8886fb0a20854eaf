"""Reading the body of a request whose client does what clients do."""

import asyncio
from typing import cast

import pytest
from aiohttp import web

from pipeline.control.http import body
from pipeline.control.http.answers import ApiError


class Request:
    """A request whose body cannot be read."""

    def __init__(self, error: Exception, transport: object) -> None:
        self.transport = transport
        self._error = error

    async def read(self) -> bytes:
        raise self._error


def read(error: Exception, transport: object) -> bytes:
    return asyncio.run(body.read(cast(web.Request, Request(error, transport))))


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("Connection closed.")])
def test_a_client_that_has_left_sent_an_incomplete_body(error: Exception) -> None:
    with pytest.raises(ApiError, match="not complete"):
        read(error, None)


def test_a_fault_of_our_own_is_not_the_clients() -> None:
    with pytest.raises(RuntimeError, match="another coroutine"):
        read(RuntimeError("read() called while another coroutine is already waiting"), object())
