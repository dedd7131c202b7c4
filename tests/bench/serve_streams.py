#!/usr/bin/env python3
"""What serving costs: tokens/s of many streams over HTTP beside LLM.generate's own, and the time that a request adds.

    python tests/bench/serve_streams.py                           # the built-in model
    python tests/bench/serve_streams.py --model DIR --streams 64
    python tests/bench/serve_streams.py --peer http://127.0.0.1:8080   # another server, in the same rounds

Every round measures the library, quire's server and the peer in turn, with the same prompts and lengths; the ratio is
that of each round. The client is as cheap as one can be made, plain sockets whose bytes nobody looks at before the
end, because it runs on the same machine.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PROMPT = "Once upon a time"


@dataclass
class Work:
    """What is generated in one round."""

    streams: int
    tokens: int

    def body(self, model: str, stream: bool = True, tokens: int | None = None) -> bytes:
        """A completion request."""
        fields = {
            "model": model,
            "prompt": PROMPT,
            "max_tokens": tokens or self.tokens,
            "temperature": 0.8,
            "ignore_eos": True,
            "stream": stream,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(fields).encode()


def library_rate(model: str | None, work: Work) -> float:
    """Tokens/s of LLM.generate, in a fresh process."""
    code = (
        "import sys, time, json\n"
        "from quire import LLM, SamplingParams\n"
        "model, prompt, streams, tokens = json.loads(sys.argv[1])\n"
        "with LLM(model, kv_cache_memory_bytes=256 << 20) as llm:\n"
        "    def run(tokens):\n"
        "        params = SamplingParams(temperature=0.8, max_tokens=tokens, ignore_eos=True)\n"
        "        start = time.perf_counter()\n"
        "        llm.generate([prompt] * streams, params, use_tqdm=False)\n"
        "        return streams * tokens / (time.perf_counter() - start)\n"
        "    run(8)\n"
        "    print(run(tokens))\n"
    )
    words = json.dumps([model, PROMPT, work.streams, work.tokens])
    return float(subprocess.run([sys.executable, "-c", code, words], check=True, capture_output=True, text=True).stdout)


@contextmanager
def quire_server(model: str | None, extra: list[str]) -> Iterator[str]:
    """A server in a process of its own; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "quire", "serve", "--port", str(port), "--kv-cache-memory-bytes", "256M"]
    words += ["--disable-log-requests", *(["--model", model] if model else []), *extra]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                with urllib.request.urlopen(url + "/ready"):
                    break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with {process.returncode}") from None
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def model_name(url: str) -> str:
    """What the server calls its model."""
    with urllib.request.urlopen(url + "/v1/models") as answer:
        return str(json.load(answer)["data"][0]["id"])


def http_rate(url: str, work: Work) -> tuple[float, float]:
    """Tokens/s of all streams together, and the median time to the first byte of an answer in seconds."""
    address = urllib.parse.urlsplit(url)
    name = model_name(url)
    _run_streams(address, work.body(name, tokens=8), work.streams)
    start = time.perf_counter()
    answers, first_bytes = _run_streams(address, work.body(name), work.streams)
    seconds = time.perf_counter() - start
    return sum(map(_num_tokens, answers)) / seconds, statistics.median(first_bytes)


def _run_streams(address: urllib.parse.SplitResult, body: bytes, number: int) -> tuple[list[bytearray], list[float]]:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    answers = [bytearray() for _ in range(number)]
    first_bytes: list[float] = []
    selector = selectors.DefaultSelector()
    for index in range(number):
        connection = socket.create_connection((address.hostname, address.port))
        connection.sendall(request)
        selector.register(connection, selectors.EVENT_READ, (index, time.perf_counter()))
    left = number
    while left:
        for key, _ in selector.select():
            index, begun = key.data
            data = key.fileobj.recv(65536)  # type: ignore[union-attr]
            if data and not answers[index]:
                first_bytes.append(time.perf_counter() - begun)
            answers[index] += data
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                left -= 1
    return answers, first_bytes


def _num_tokens(answer: bytearray) -> int:
    counts = re.findall(rb'"completion_tokens": ?(\d+)', bytes(answer))
    if not counts:
        raise SystemExit(f"no usage in an answer: {bytes(answer[:300])!r}")
    return int(counts[-1])


def request_seconds(url: str, number: int) -> float:
    """Median seconds of a request for one token, on a connection that is kept."""
    address = urllib.parse.urlsplit(url)
    body = Work(1, 1).body(model_name(url), stream=False)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    seconds = []
    with socket.create_connection((address.hostname, address.port)) as connection:
        for _ in range(number):
            start = time.perf_counter()
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def library_request_seconds(model: str | None, number: int) -> float:
    """The same through LLM.generate."""
    code = (
        "import sys, time, json, statistics\n"
        "from quire import LLM, SamplingParams\n"
        "model, prompt, number = json.loads(sys.argv[1])\n"
        "with LLM(model, kv_cache_memory_bytes=256 << 20) as llm:\n"
        "    seconds = []\n"
        "    for _ in range(number):\n"
        "        start = time.perf_counter()\n"
        "        llm.generate(prompt, SamplingParams(temperature=0.8, max_tokens=1), use_tqdm=False)\n"
        "        seconds.append(time.perf_counter() - start)\n"
        "    print(statistics.median(seconds))\n"
    )
    words = json.dumps([model, PROMPT, number])
    return float(subprocess.run([sys.executable, "-c", code, words], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; default: the built-in model")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=400, help="per stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help="URL of another server, measured in every round")
    parser.add_argument("--flags", default="", help="more flags of quire's server, in one text")
    options = parser.parse_args()
    work = Work(options.streams, options.tokens)
    ratios, peer_ratios, first_bytes = [], [], []
    for number in range(options.rounds):
        own = library_rate(options.model, work)
        with quire_server(options.model, options.flags.split()) as url:
            served, first_byte = http_rate(url, work)
        ratios.append(served / own)
        first_bytes.append(first_byte)
        line = f"round {number}: LLM.generate {own:.0f} tok/s, HTTP {served:.0f} tok/s, ratio {served / own:.3f}"
        if options.peer:
            peer, _ = http_rate(options.peer, work)
            peer_ratios.append(served / peer)
            line += f"; peer {peer:.0f} tok/s, HTTP is {served / peer:.2f} times that"
        print(line, flush=True)
    with quire_server(options.model, options.flags.split()) as url:
        over_http = request_seconds(url, 200)
    within = library_request_seconds(options.model, 200)
    summary = {
        "streams": work.streams,
        "tokens_per_stream": work.tokens,
        "http_over_generate": round(statistics.median(ratios), 3),
        "http_over_peer": round(statistics.median(peer_ratios), 2) if peer_ratios else None,
        "first_byte_ms": round(1e3 * statistics.median(first_bytes), 2),
        "request_ms": round(1e3 * over_http, 2),
        "request_overhead_ms": round(1e3 * (over_http - within), 2),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
