"""Bodies of requests, read with a bound on their size and on the time that they take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from quire.server.errors import ApiError, shortened

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientGone(Exception):
    """The client has closed the connection; nobody needs an answer."""


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of that name (in lower case); empty if there is none."""
    return next((bytes(value) for key, value in scope["headers"] if key == name), b"")


def require_json(scope: Scope) -> None:
    """Raises: ApiError 415 if the body is not said to be JSON.

    Pages of other sites can have a browser send other kinds of bodies here, with the key that it remembers, without
    asking first.
    """
    kind = header(scope, b"content-type").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        shown = shortened(repr(kind.decode("latin-1"))) if kind else "no Content-Type"
        raise ApiError(415, f"The body must be JSON, with Content-Type: application/json; got {shown}.")


async def read_body(scope: Scope, receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """Read a whole body.

    Raises: ApiError 413 for a larger one, at once if its length is told; 408 if it takes longer than `seconds` (0: any
    time); ClientGone.
    """
    told = header(scope, b"content-length")
    if told.isdigit() and int(told) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds or None):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                if part:
                    parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, f"The body has not come within {seconds:g} seconds (request_timeout).") from None


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"The body is too large: at most {max_bytes} bytes (max_body_bytes).")
