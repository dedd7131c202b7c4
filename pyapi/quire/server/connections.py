"""uvicorn's HTTP protocols with bounds that they lack: on the size of a head, and on the time that it takes.

With httptools a head may otherwise grow without end, and with either parser a client that sends nothing, or a byte a
minute, keeps its connection for good.
"""

from __future__ import annotations

import asyncio
from typing import Any

from quire.server.errors import ApiError


class _Bounded:
    """Mixed into a protocol of uvicorn, whose attributes it uses."""

    max_head_bytes: int
    head_seconds: float

    transport: Any
    cycle: Any
    loop: asyncio.AbstractEventLoop

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]
        if not self.head_is_pending():
            self._head_bytes = 0
            self._stop_timer()
            return
        # The first piece, which may end with the body before, is let pass; Gate weighs heads that are complete.
        self._head_bytes += len(data) if self._head_bytes else 1
        if self._head_bytes > self.max_head_bytes:
            limit = f"at most {self.max_head_bytes} bytes (max_header_bytes)"
            self._refuse(ApiError(431, f"The head is too large: {limit}."))
        else:
            self._expect_head()

    def head_is_pending(self) -> bool:
        """After some data: whether a head has begun and is not complete."""
        raise NotImplementedError

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        self._refuse(ApiError(400, "This is not a valid HTTP request, or its head is too large."))

    def _expect_head(self) -> None:
        if self._head_timer is None and self.head_seconds > 0:
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._refuse(ApiError(408, f"No request has come within {self.head_seconds:g} seconds (request_timeout)."))

    def _refuse(self, error: ApiError) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # What is wrong came behind a request whose answer is under way: nothing may be written into that.
            self.transport.close()
            return
        body = error.body()
        head = (
            b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head % (error.status, len(body)) + body)
        self.transport.close()


def protocol_class(max_head_bytes: int, head_seconds: float) -> type[asyncio.Protocol]:
    """The class to give to uvicorn: on httptools if it is installed (`pip install quire[fast]`), else on h11."""
    try:
        base = _on_httptools()
    except ImportError:
        base = _on_h11()
    return type("BoundedProtocol", (base,), {"max_head_bytes": max_head_bytes, "head_seconds": head_seconds})


def _on_httptools() -> type[Any]:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class BoundedHttpTools(_Bounded, HttpToolsProtocol):
        _in_head = True

        def on_message_begin(self) -> None:
            self._in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()

        def head_is_pending(self) -> bool:
            return self._in_head

    return BoundedHttpTools


def _on_h11() -> type[Any]:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class BoundedH11(_Bounded, H11Protocol):
        def head_is_pending(self) -> bool:
            return self.conn.their_state is h11.IDLE

    return BoundedH11
