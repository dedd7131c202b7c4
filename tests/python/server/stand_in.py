"""A server that says what a test wants, for the page: models, streams, refusals and metrics, without a model."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from quire.server.page import page

STORY = (
    " there lived a miller who had three daughters and a cat that could count. Every evening, when the wheel stood"
    " still, it sat upon the sacks and told them over, and every evening there was one fewer than the day before.\n\n"
    "“Somebody is at our flour,” said the eldest. “Somebody is at our bread,” said the second. But the youngest took"
    " her lantern, and without a word she followed the white footprints into the wood.\n\nThere, under the oldest of"
    " the oaks, stood a little oven, and before it a little man, who was baking as if the whole world were hungry."
)
ANSWER = """Sunlight looks white, but it is **all colours at once**. On its way through the air it meets molecules far \
smaller than the waves of light themselves, and those send *short* waves, the blue ones, in every direction:

1. Red light passes nearly straight on.
2. Blue light is scattered about **nine times** as much.
3. So blue comes to your eye from all over the sky.

How much each colour is scattered goes with the fourth power of its frequency:

```python
def scattering(wavelength_nm: float) -> float:
    return (400 / wavelength_nm) ** 4
```

At sunset the way through the air is longer. The blue has been lost by then, and `red` is what is left."""


class StandIn:
    """What the server does next; tests change it."""

    def __init__(self) -> None:
        self.url = ""
        self.key: str | None = None
        self.card: dict[str, Any] = {"id": "stand-in-7b", "object": "model", "max_model_len": 4096}
        self.pieces: list[str] = []
        self.seconds_per_piece = 0.0
        self.refusal: tuple[int, dict[str, str], str] | None = None
        self.error_in_stream: str | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.cut = threading.Event()
        """A client went away in mid-stream."""
        self.generated = 0
        self.running = 0

    def says(self, text: str, seconds_per_piece: float = 0.0) -> None:
        """Stream this text in pieces like tokens."""
        self.pieces = [f"{word} " for word in text.split(" ")]
        self.pieces[-1] = self.pieces[-1][:-1]
        self.seconds_per_piece = seconds_per_piece

    def metrics(self) -> str:
        """What the page reads of /metrics."""
        used = 37 * self.running
        values = {
            "vllm:num_requests_running": self.running,
            "vllm:num_requests_waiting": 0,
            "quire:kv_blocks": 1024,
            "quire:kv_blocks_free": 1024 - used,
            "vllm:generation_tokens_total": self.generated,
            "vllm:num_preemptions_total": 0,
            "vllm:prefix_cache_queries_total": 400,
            "vllm:prefix_cache_hits_total": 248,
        }
        return "".join(f'{name}{{model_name="a }} b"}} {float(value)}\n' for name, value in values.items())


class Handler(BaseHTTPRequestHandler):
    """Answers as the stand-in says."""

    # A connection for each request, so that nothing answers any more once the server is closed.
    protocol_version = "HTTP/1.0"
    stand_in: StandIn

    def log_message(self, *words: Any) -> None:
        """Nothing."""

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        body = {"error": {"message": message, "type": "Error", "param": None, "code": status}}
        self.send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def allowed(self) -> bool:
        key = self.stand_in.key
        return key is None or self.headers["Authorization"] == f"Bearer {key}"

    def do_GET(self) -> None:
        if self.path == "/":
            self.send(200, *page())
        elif not self.allowed():
            self.refuse(401, "Unauthorized")
        elif self.path == "/v1/models":
            body = json.dumps({"object": "list", "data": [self.stand_in.card]}).encode()
            self.send(200, body, {"Content-Type": "application/json"})
        elif self.path == "/metrics":
            self.send(200, self.stand_in.metrics().encode(), {"Content-Type": "text/plain"})
        else:
            self.refuse(404, f"no {self.path}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.stand_in.requests.append((self.path, body))
        if not self.allowed():
            self.refuse(401, "Unauthorized")
        elif self.stand_in.refusal:
            status, headers, message = self.stand_in.refusal
            self.refuse(status, message, headers)
        else:
            self.stream(chat=self.path.endswith("chat/completions"))

    def stream(self, chat: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        stand_in = self.stand_in
        stand_in.running += 1
        try:
            for piece in stand_in.pieces:
                content = {"delta": {"content": piece}} if chat else {"text": piece}
                self.event({"choices": [{"index": 0, "finish_reason": None, **content}]})
                stand_in.generated += 1
                time.sleep(stand_in.seconds_per_piece)
            if stand_in.error_in_stream:
                self.event({"error": {"message": stand_in.error_in_stream}})
                return
            content = {"delta": {}} if chat else {"text": ""}
            self.event({"choices": [{"index": 0, "finish_reason": "stop", **content}]})
            count = len(stand_in.pieces)
            self.event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": count}})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            stand_in.cut.set()
        finally:
            stand_in.running -= 1

    def event(self, data: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")


@contextmanager
def serving() -> Iterator[StandIn]:
    """A stand-in that listens, at a free port of this machine."""
    stand_in = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"stand_in": stand_in}))
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
