"""Errors as clients of OpenAI's API know them: {"error": {message, type, param, code}}, whatever went wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

# The names are vLLM's; `code` is the status, as there.
TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    431: "RequestTooLargeError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


class ApiError(Exception):
    """What a client is told: a status, one line, and the field that it is about."""

    def __init__(self, status: int, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = " ".join(message.split())
        self.param = param
        self.retry_after = retry_after
        """Seconds after which to try again."""

    def body(self) -> bytes:
        """The body of an answer, or of an event in a stream."""
        error = {
            "message": self.message,
            "type": TYPES.get(self.status, "BadRequestError" if self.status < 500 else "InternalServerError"),
            "param": self.param,
            "code": self.status,
        }
        return json.dumps({"error": error}, separators=(",", ":")).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the answer."""
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="quire"'))
        # Whatever else the client was about to send on this connection is not read.
        if self.status in (408, 413, 431):
            headers.append((b"connection", b"close"))
        return headers


def bad_request(message: str, param: str | None = None) -> ApiError:
    """The client is wrong, in this field."""
    return ApiError(400, message, param)


MAX_SHOWN = 300


def shortened(message: str) -> str:
    """A message that may quote what the client sent, cut to a readable length."""
    return message if len(message) <= MAX_SHOWN else f"{message[:MAX_SHOWN]}... ({len(message)} characters)"


def from_value_error(error: Exception, names: Iterable[str], renamed: dict[str, str] | None = None) -> ApiError:
    """The field that a ValueError of the engine or of SamplingParams is about stands in its text: find it."""
    message = shortened(str(error))
    found = [
        (match.start(), name) for name in names if (match := re.search(rf"\b{re.escape(name)}(?=[=\[ ]|\b)", message))
    ]
    param = min(found)[1] if found else None
    return bad_request(message, (renamed or {}).get(param or "", param))
