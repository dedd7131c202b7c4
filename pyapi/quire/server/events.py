"""Events of a stream as bytes: what stays the same is made once, and a piece of text goes between."""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any

DONE = b"data: [DONE]\n\n"

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of nginx's kind are not to wait for more
]

# Allowed in JSON as they are, but some clients take them for the end of a line.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def compact(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_text(text: str) -> bytes:
    """A text as JSON, in UTF-8."""
    quoted: str = encode_basestring(text)
    return (quoted if quoted.isascii() else quoted.translate(_LINE_ENDS)).encode()


class Events:
    """Makes the events of one answer.

    Args:
        head: id, object, created and model.
        chat: pieces of text are deltas of a message.
        with_usage: every event has the field `usage`.
    """

    def __init__(self, head: dict[str, Any], chat: bool, with_usage: bool) -> None:
        self._head = b"data: " + _json(head)[:-1]
        self._before_text = b',"delta":{"content":' if chat else b',"text":'
        self._after_text = b"}" if chat else b""
        usage = b',"usage":null' if with_usage else b""
        self._usual_end = b',"logprobs":null,"finish_reason":null,"stop_reason":null}]' + usage + b"}\n\n"
        self._no_usage = usage
        self._beginnings: dict[int, bytes] = {}

    def piece(self, index: int, text: str) -> bytes:
        """The common case: text of a choice, and nothing else."""
        beginning = self._beginnings.get(index)
        if beginning is None:
            beginning = self._beginnings[index] = self._begin(index) + self._before_text
        return beginning + json_text(text) + self._after_text + self._usual_end

    def full_piece(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
        stop_reason: str | int | None,
        usage: dict[str, Any] | None,
    ) -> bytes:
        """A piece with more than text."""
        end = (
            b',"logprobs":%b,"finish_reason":%b,"stop_reason":%b}]'
            % (_json(logprobs), _json(finish_reason), _json(stop_reason))
        )  # fmt: skip
        shown = self._no_usage if usage is None else b',"usage":' + _json(usage)
        return self._begin(index) + self._before_text + json_text(text) + self._after_text + end + shown + b"}\n\n"

    def role(self, index: int, role: str) -> bytes:
        """The first event of a choice in chat."""
        delta = b',"delta":{"role":%b,"content":""}' % _json(role)
        return self._begin(index) + delta + self._usual_end

    def last_usage(self, usage: dict[str, Any]) -> bytes:
        """The event behind all choices."""
        return self._head + b',"choices":[],"usage":' + _json(usage) + b"}\n\n"

    def _begin(self, index: int) -> bytes:
        return self._head + b',"choices":[{"index":%d' % index


def _json(value: Any) -> bytes:
    return compact(value).translate(_LINE_ENDS).encode()
