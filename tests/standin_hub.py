"""A stand-in for huggingface.co: the part of its HTTP interface that fetching a model takes, over folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandInHub(ThreadingHTTPServer):
    """Serves the folders in `models` by name; counts what was asked for."""

    daemon_threads = True

    def __init__(self, models: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models
        self.gated: set[str] = set()
        self.token: str | None = None
        """With a token here, gated models are for those who send it."""
        self.broken = False
        """Answer everything with 503."""
        self.fetched: list[str] = []
        """Names of the files whose content was sent."""
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInHub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.requests.append(path)
        words = path.split("/")
        behind = words[2:] if words[:2] == ["api", "models"] else words
        length = 1 if behind[0] in self.server.models else 2
        name, rest = "/".join(behind[:length]), behind[length:]
        if self.server.broken:
            self._send(503, b"", {})
        elif name not in self.server.models:
            # What the hub says of models that do not exist or are private.
            self._send(401 if self._token() is None else 404, b"", {"X-Error-Code": "RepoNotFound"})
        elif rest[1:2] not in ([], ["main"], ["v1"], [COMMIT]):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif words[:2] == ["api", "models"]:
            self._send_description(self.server.models[name], name, rest)
        elif name in self.server.gated and self._token() != self.server.token:
            self._send(403 if self._token() else 401, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self._send_file(self.server.models[name], "/".join(rest[2:]), with_body)

    def _token(self) -> str | None:
        header = self.headers.get("Authorization")
        return None if header is None else header.removeprefix("Bearer ")

    def _send_description(self, folder: Path, name: str, rest: list[str]) -> None:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            content: Any = [
                {"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": _etag(folder / file)}
                for file in files
            ]
        else:
            content = {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send_file(self, folder: Path, file: str, with_body: bool) -> None:
        if not (folder / file).is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = (folder / file).read_bytes()
        headers = {"ETag": f'"{_etag(folder / file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if with_body:
            self.server.fetched.append(file)
            self._send(200, data, headers)
        else:
            self._send(200, b"", {**headers, "Content-Length": str(len(data))})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def running(models: dict[str, Path]) -> Iterator[StandInHub]:
    """A hub with these models, until the end of the block."""
    hub = StandInHub(models)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
