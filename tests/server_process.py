"""Servers for tests: `quire serve` in a process of its own, and what tests ask of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 60

# The storyteller has none of its own; with this one its answers begin like stories.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Once upon a time there was{% endif %}"
)


class ServerProcess:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.url = f"http://127.0.0.1:{port}"

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers (names in lower case), body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        """POST with an answer in JSON."""
        status, _, answer = self.request("POST", path, body, **options)
        return status, json.loads(answer)

    def metric(self, name: str) -> float:
        """The value of a metric without labels but the model's name."""
        text = self.request("GET", "/metrics")[2].decode()
        found = re.search(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}"
        return float(found[1])

    def wait_until_idle(self, seconds: float = 10) -> None:
        """Return when the engine runs nothing and all of its KV blocks are free."""
        deadline = time.monotonic() + seconds
        while True:
            running = self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting")
            blocks, free = self.metric("quire:kv_blocks"), self.metric("quire:kv_blocks_free")
            if running == 0 and blocks == free:
                return
            assert time.monotonic() < deadline, f"running or waiting: {running}, KV blocks: {blocks}, free: {free}"
            time.sleep(0.02)

    def resident_bytes(self) -> int:
        """Memory of the process."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, seconds: float = 30) -> int:
        """Ask it to end, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def running_server(
    folder: Path, *words: str, program: tuple[str, ...] = ("-m", "quire", "serve"), **environment: str
) -> Iterator[ServerProcess]:
    """Start a server on a free port, and end it.

    Args:
        folder: for its log.
        words: flags.
    """
    log = folder / "server.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    try:
        server = ServerProcess(process, _port(process, log), log)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """What the log says, once the server listens."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"listening at https?://[^\s]*:(\d+)$", log.read_text(), re.MULTILINE)
        if found:
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def events(text: bytes) -> list[Any]:
    """The contents of a stream's events, [DONE] left out."""
    lines = [line for line in text.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]", lines[-1]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
