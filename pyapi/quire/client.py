"""A small client for servers that speak OpenAI's API, quire's among them: JSON, and streams of server-sent events."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000"

KEY_VARIABLES = ("QUIRE_API_KEY", "VLLM_API_KEY")


class ServerError(RuntimeError):
    """The server answered with an error; its message is the text.

    Attributes:
        status: of HTTP, or 200 for an error inside a stream.
        retry_after: seconds the server asks to wait, if it does.
    """

    def __init__(self, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Address:
    """Where a server is."""

    scheme: str
    host: str
    port: int
    prefix: str
    """What stands before /v1 in its paths."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read "http://host:8000", with or without "http://" and "/v1".

        Raises: ValueError naming the URL.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ValueError(f"url must be like {DEFAULT_URL}, got {url!r}.")
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), prefix)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def api_key(given: str | None) -> str | None:
    """The key to send: the one that was given, else the environment's."""
    if given is not None:
        return given
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)


class Client:
    """Requests to one server, one connection each.

    Args:
        url: as Address.parse() reads it.
        key: sent as a bearer token.
        timeout: seconds without a byte after which a request fails; None waits for ever.

    Thread safety: all methods.
    """

    def __init__(self, url: str = DEFAULT_URL, key: str | None = None, timeout: float | None = None) -> None:
        self.address = Address.parse(url)
        self._key = key
        self._timeout = timeout

    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        key = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        return {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **key}

    def get(self, path: str) -> Any:
        """The JSON at a path such as "/v1/models".

        Raises: ServerError; ConnectionError in one line.
        """
        return self._json("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers a body. Raises: as get()."""
        return self._json("POST", path, body)

    def stream(self, path: str, body: Mapping[str, Any]) -> Stream:
        """The events that answer a body with "stream": true, as they come. Raises: as get()."""
        connection, response = self._request("POST", path, {**body, "stream": True})
        return Stream(self.address, connection, response)

    def model(self, name: str | None = None) -> tuple[str, int | None]:
        """Name and context, in tokens, of a model that is served: of that name, or the first of all.

        The context is None where the server does not tell. Raises: as get().
        """
        try:
            cards = self.get("/v1/models")["data"]
            card = cards[0] if name is None else next(one for one in cards if one["id"] == name)
            context = card.get("max_model_len")
            return str(card["id"]), context if isinstance(context, int) else None
        except (KeyError, IndexError, TypeError, AttributeError, StopIteration, ServerError) as error:
            # What is wrong with the name, or with the server, the request itself will tell.
            if name is not None:
                return name, None
            if isinstance(error, ServerError):
                raise
            raise ServerError(f"{self.address} lists no model at /v1/models.", 200) from None

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        connection, response = self._request(method, path, body)
        try:
            return json.loads(response.read())
        except ValueError:
            raise ServerError(f"{self.address}{path} answered with something else than JSON.", 200) from None
        except (OSError, http.client.HTTPException) as error:
            _cut(self.address, error)
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection()
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, self.address.prefix + path, body=data, headers=self.headers())
            response = connection.getresponse()
            if response.status == 200:
                return connection, response
            error = server_error(response.status, response.read(), dict(response.headers))
        except (OSError, http.client.HTTPException) as problem:
            connection.close()
            _unreachable(self.address, problem)
        connection.close()
        raise error

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        if self.address.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


class Stream(Iterator[dict[str, Any]]):
    """The events of one answer. Leaving its `with` block ends the connection, and so the request."""

    def __init__(
        self, address: Address, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        self._address = address
        self._connection = connection
        self._response = response

    def __next__(self) -> dict[str, Any]:
        while True:
            try:
                line = self._response.readline()
            except (OSError, http.client.HTTPException) as error:
                _cut(self._address, error)
            if not line:
                raise ConnectionError(f"{self._address} ended the answer in the middle.")
            data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                raise StopIteration
            if data:
                return _event(data)

    def close(self) -> None:
        """End the connection; the server stops working on the request."""
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ServerError(f"the server sent an event that is no JSON object: {data[:80]!r}", 200)
    if "error" in event:
        raise ServerError(_message(event, "the answer failed"), 200)
    return event


def server_error(status: int, body: bytes, headers: Mapping[str, str]) -> ServerError:
    """The error in an answer whose status is not 200."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    retry = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    message = _message(content, f"the server answered with status {status}")
    return ServerError(message, status, float(retry) if retry.isdigit() else None)


def _message(content: Any, otherwise: str) -> str:
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) and message else otherwise


def _unreachable(address: Address, error: Exception) -> NoReturn:
    if isinstance(error, ssl.SSLCertVerificationError):
        raise ConnectionError(
            f"{address} has no certificate that this machine trusts ({error.verify_message}); "
            "SSL_CERT_FILE may name the authority's."
        ) from error
    if isinstance(error, socket.gaierror):
        raise ConnectionError(f"{address} cannot be reached: there is no host {address.host!r}.") from error
    if isinstance(error, TimeoutError):
        raise ConnectionError(f"{address} did not answer in time.") from error
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    raise ConnectionError(f"{address} cannot be reached: {reason}; is the server running there?") from error


def _cut(address: Address, error: Exception) -> NoReturn:
    raise ConnectionError(f"{address} ended the answer in the middle: {error or type(error).__name__}.") from error
