"""JSON as clients may send it: one object, bounded depth, no key twice, no NaN."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from quire.server.errors import ApiError, bad_request, shortened

MAX_DEPTH = 64
MAX_VALUES = 1 << 20
"""Numbers, texts and containers in one body: to read more would keep everybody waiting for a second."""

# Possessive, because a text may have millions of escapes.
_TEXT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class _Duplicate(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Duplicate(twice)
    return result


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises: ApiError 400 for what is none, for a key given twice, for values nested deeper than MAX_DEPTH, and for more
    than MAX_VALUES of them.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8: byte {error.start}.") from None
    if _num_marks(text) > MAX_VALUES and _num_marks(_TEXT.sub("", text)) > MAX_VALUES:
        raise bad_request(f"The body has more than {MAX_VALUES} values.")
    try:
        value = _decoder.decode(text)
    except _Duplicate as error:
        key = shortened(str(error))
        raise bad_request(f"The body has the key {key!r} twice in one object.", key) from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except ValueError as error:  # a constant such as NaN, an integer of thousands of digits
        raise bad_request(f"The body is not JSON: {shortened(str(error))}.") from None
    if not isinstance(value, dict):
        raise bad_request("The body must be a JSON object.")
    # Nothing can be deeper than there are brackets, and few requests have many.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _require_depth(value)
    return value


def _num_marks(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _too_deep() -> ApiError:
    return bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _require_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, (dict, list))
        ]
