"""The body of a request, in time and complete."""

import asyncio

from aiohttp import web

from pipeline.control.http.answers import ApiError
from pipeline.control.http.connection import TIMEOUT


async def read(request: web.Request) -> bytes:
    """All of it. Raises ApiError, and aiohttp's 413 if it is too long."""
    try:
        async with asyncio.timeout(TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, "the body did not come in time") from None
    except (ConnectionError, web.RequestPayloadError):
        # The client left, or what came is not encoded as the head says.
        raise ApiError(400, "the body is not complete") from None
    except RuntimeError:
        # So says aiohttp if the client had left before it was asked for the body.
        if request.transport is not None:
            raise
        raise ApiError(400, "the body is not complete") from None
