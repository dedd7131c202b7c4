"""What every HTTP request passes before anything else looks at it: its id, the key, the size of its head."""

from __future__ import annotations

import logging
import re
import uuid

from quire.server.auth import KeyCheck
from quire.server.errors import ApiError
from quire.server.reading import App, ClientGone, Message, Receive, Scope, Send, header

logger = logging.getLogger("quire.server")

OPEN_PATHS = (b"/health", b"/ready")
"""The only ones that need no key."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Gate:
    """Raw ASGI middleware around the whole application.

    Whether a request needs the key is decided on the path as it came over the wire, before anybody decodes or rewrites
    it: what is not exactly an open path needs it, whether there is a route or not.
    """

    def __init__(self, app: App, api_key: str | None, root_path: str, max_header_bytes: int) -> None:
        self._app = app
        self._key = None if api_key is None else KeyCheck(api_key)
        self._open_paths = {root_path.encode() + path for path in OPEN_PATHS}
        self._page_path = root_path + "/"
        self._max_header_bytes = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        given = header(scope, b"x-request-id")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            self._require_head(scope)
            self._require_key(scope)
            await self._app(scope, receive, send_named)
        except ClientGone:
            pass
        except ApiError as error:
            await send_error(send_named, error, ask_browser=scope["path"] == self._page_path)
        except Exception:
            logger.exception("%s: internal error", scope["state"]["request_id"])
            if not started:
                await send_error(send_named, ApiError(500, "Internal error; the server's log says more."))

    def _require_key(self, scope: Scope) -> None:
        if self._key is None or scope.get("raw_path") in self._open_paths:
            return
        if not self._key.accepts(scope["headers"]):
            raise ApiError(401, "A valid API key is needed: Authorization: Bearer KEY.")

    def _require_head(self, scope: Scope) -> None:
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self._max_header_bytes:
            raise ApiError(431, f"The head is too large: at most {self._max_header_bytes} bytes (max_header_bytes).")


async def send_error(send: Send, error: ApiError, ask_browser: bool = False) -> None:
    """Answer with an error. `ask_browser`: have it ask its user for the key."""
    body = error.body()
    headers = [*error.headers(), (b"content-length", b"%d" % len(body))]
    if ask_browser:
        headers = [
            (name, value.replace(b"Bearer", b"Basic") if name == b"www-authenticate" else value)
            for name, value in headers
        ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
