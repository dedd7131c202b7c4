"""Many streamed answers at once, timed. What arrives is only noted while it arrives, and read afterwards.

So the client takes little of a machine that it shares with the server, and times are those of arrival.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from quire.client import Address, server_error


@dataclass
class Answer:
    """One answer as it came. Times are in seconds."""

    start: float = 0.0
    """Since the measurement began."""
    ttft: float = 0.0
    """To the first text."""
    itls: list[float] = field(default_factory=list)
    """Between events that brought text."""
    latency: float = 0.0
    """To the last text."""
    num_input: int = 0
    num_output: int = 0
    """As the server counts tokens; where it does not, the events that brought text."""
    text: str = ""
    error: str = ""
    """One line if it failed."""

    @property
    def tpot(self) -> float:
        """Per output token, the first left out."""
        return (self.latency - self.ttft) / (self.num_output - 1)


class _Recorder(asyncio.Protocol):
    """A connection that sends one request and notes when which bytes come back."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.parts: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.parts.append((time.perf_counter(), data))

    def connection_lost(self, error: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


class Recordings:
    """Sends requests to one server and keeps what came back."""

    def __init__(self, address: Address, headers: dict[str, str], path: str) -> None:
        self._address = address
        head = [f"POST {address.prefix}{path} HTTP/1.1", f"Host: {address.host}:{address.port}", "Connection: close"]
        self._head = "\r\n".join([*head, *(f"{name}: {value}" for name, value in headers.items())])
        self._tls = ssl.create_default_context() if address.scheme == "https" else None

    async def record(self, body: dict[str, Any], begin: float) -> Callable[[], Answer]:
        """Send one request and wait for the whole answer, which the returned function reads."""
        data = json.dumps(body).encode()
        request = f"{self._head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        start = time.perf_counter()
        problem: BaseException | None = None
        parts: list[tuple[float, bytes]] = []
        try:
            _, recorder = await asyncio.get_running_loop().create_connection(
                lambda: _Recorder(request), self._address.host, self._address.port, ssl=self._tls
            )
            parts = recorder.parts
            problem = await recorder.ended
        except OSError as error:
            problem = error
        return lambda: read_answer(parts, start, start - begin, problem)


def read_answer(
    parts: list[tuple[float, bytes]], start: float, since_begin: float, problem: BaseException | None
) -> Answer:
    """What a recording means."""
    answer = Answer(start=since_begin)
    try:
        _read_events(answer, parts, start)
    except ValueError as error:
        answer.error = str(error) if problem is None else f"connection: {problem}"
    if problem is not None and not answer.error and not answer.text:
        answer.error = f"connection: {problem}"
    return answer


def _read_events(answer: Answer, parts: list[tuple[float, bytes]], start: float) -> None:
    raw = b"".join(data for _, data in parts)
    head, found, _ = raw.partition(b"\r\n\r\n")
    if not found:
        raise ValueError("the server closed the connection without an answer")
    status = int(head.split(None, 2)[1])
    chunked = b"transfer-encoding: chunked" in head.lower()
    body = list(_chunks(raw, len(head) + 4)) if chunked else [(len(raw), raw[len(head) + 4 :])]
    payload = b"".join(data for _, data in body)
    if status != 200:
        raise ValueError(f"{status}: {server_error(status, payload, {})}")
    when = _Clock(parts, body)
    last, done, offset, texts, num_events = start, False, 0, [], 0
    for block in payload.split(b"\n\n"):
        offset += len(block) + 2
        data = block.strip().removeprefix(b"data:").strip()
        if data == b"[DONE]":
            done = True
        elif data and not data.startswith(b":"):
            text = _take(answer, json.loads(data))
            if text:
                arrived = when.of(min(offset, len(payload)))
                if num_events:
                    answer.itls.append(arrived - last)
                else:
                    answer.ttft = arrived - start
                last = arrived
                num_events += 1
                texts.append(text)
    answer.latency = last - start
    answer.text = "".join(texts)
    answer.num_output = answer.num_output or num_events
    if not done:
        raise ValueError("the answer ended in the middle")
    if not num_events:
        raise ValueError("the answer has no text")


def _take(answer: Answer, event: Any) -> str:
    """The text of an event; counts of tokens go into the answer."""
    if not isinstance(event, dict):
        raise ValueError("the server sent an event that is no JSON object")
    if "error" in event:
        raise ValueError(str(server_error(200, json.dumps(event).encode(), {})))
    usage = event.get("usage")
    if isinstance(usage, dict):
        answer.num_input = usage.get("prompt_tokens") or answer.num_input
        answer.num_output = usage.get("completion_tokens") or answer.num_output
    choices = event.get("choices") or [{}]
    return str(choices[0].get("text") or (choices[0].get("delta") or {}).get("content") or "")


def _chunks(raw: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """The chunks of a body in chunked transfer coding, each with the offset in `raw` where it ends."""
    while True:
        line = raw.find(b"\r\n", place)
        if line < 0:
            return
        size = int(raw[place:line].partition(b";")[0] or b"0", 16)
        if size == 0:
            return
        yield line + 2 + size, raw[line + 2 : line + 2 + size]
        place = line + 2 + size + 2


class _Clock:
    """When which byte of a body arrived."""

    def __init__(self, parts: list[tuple[float, bytes]], body: list[tuple[int, bytes]]) -> None:
        self._times = [at for at, _ in parts]
        self._raw_ends = _running_total([len(data) for _, data in parts])
        self._body_ends = _running_total([len(data) for _, data in body])
        self._body_raw_ends = [end for end, _ in body]

    def of(self, length: int) -> float:
        """When the first `length` bytes of the body were there."""
        chunk = bisect.bisect_left(self._body_ends, length)
        raw_end = self._body_raw_ends[chunk] - (self._body_ends[chunk] - length)
        return self._times[bisect.bisect_left(self._raw_ends, raw_end)]


def _running_total(sizes: list[int]) -> list[int]:
    ends, total = [], 0
    for size in sizes:
        total += size
        ends.append(total)
    return ends


async def send_all(
    count: int, delays: list[float], max_concurrency: int | None, send: Callable[[int], Awaitable[None]]
) -> None:
    """Send requests 0 ... count-1, each at its time after the begin, not more than so many at once."""
    begin = time.perf_counter()
    gate = asyncio.Semaphore(max_concurrency or count)

    async def one(index: int) -> None:
        async with gate:
            await send(index)

    tasks = []
    for index in range(count):
        wait = begin + delays[index] - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(index)))
    await asyncio.gather(*tasks)
