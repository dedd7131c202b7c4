"""The API key of a server."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

Headers = Iterable[tuple[bytes, bytes]]


class KeyCheck:
    """Tells whether a request brings the key, in a time that does not depend on how much of it is right.

    The key is sent as `Authorization: Bearer KEY`, or as the password of `Authorization: Basic`, which browsers know.
    """

    def __init__(self, key: str) -> None:
        self._digest = _digest(key.encode())

    def accepts(self, headers: Headers) -> bool:
        """Whether exactly one Authorization header is there, with the key."""
        values = [value for name, value in headers if name == b"authorization"]
        key = _key_in(values[0]) if len(values) == 1 else None
        # Something is compared in any case, so that the time tells nothing about the form either.
        return hmac.compare_digest(_digest(key or b""), self._digest) and key is not None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _key_in(value: bytes) -> bytes | None:
    scheme, _, credentials = value.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials.strip()
    if scheme.lower() == b"basic":
        try:
            _, colon, password = base64.b64decode(credentials.strip(), validate=True).partition(b":")
        except binascii.Error:
            return None
        return password if colon else None
    return None
