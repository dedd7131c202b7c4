"""HTTP that is wrong, slow or too much. R10 of the reliability goals, and the limits of a server."""

import asyncio
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_process import ServerProcess, running_server

BODY = json.dumps({"model": "storyteller", "prompt": "Once", "max_tokens": 1}).encode()
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GOOD = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY

PARSERS = ("httptools", "h11")


@pytest.fixture(scope="module", params=PARSERS)
def strict(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with small limits, on each of the two HTTP parsers."""
    folder = tmp_path_factory.mktemp("strict")
    words = ["--kv-cache-memory-bytes", "4M", "--request-timeout", "1", "--max-body-bytes", "100K"]
    environment = {}
    if request.param == "h11":
        # As where httptools is not installed.
        (folder / "httptools.py").write_text("raise ImportError\n")
        environment["PYTHONPATH"] = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    else:
        pytest.importorskip("httptools")
    with running_server(folder, *words, "--max-header-bytes", "16K", **environment) as running:
        yield running


def exchange(server: ServerProcess, data: bytes, seconds: float = 10, piece: int = 1 << 16) -> bytes:
    """Send bytes as they are, and return what comes until the server closes the connection or says nothing more."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        try:
            for start in range(0, len(data), piece):
                connection.sendall(data[start : start + piece])
        except OSError:  # the server has heard enough
            pass
        parts = []
        connection.settimeout(seconds)
        try:
            while part := connection.recv(65536):
                parts.append(part)
                connection.settimeout(0.3)
        except OSError:
            pass
        return b"".join(parts)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def alive(server: ServerProcess) -> bool:
    closing = GOOD.replace(b"Host: x", b"Host: x\r\nConnection: close")
    return server.process.poll() is None and status_of(exchange(server, closing)) == 200


WRONG = {
    "nothing of HTTP": b"hello\r\n\r\n",
    "bytes": bytes(range(256)) * 4,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space before a colon": b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost\r\n\r\n",
    "NUL in a header": b"GET /health HTTP/1.1\r\nHost: x\0y\r\n\r\n",
    "a length below zero": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length that is no number": POST + b"Content-Length: abc\r\n\r\n" + BODY,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
    "a length of 100 digits": POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n" + BODY,
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk of minus one": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a chunk larger than all": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_http_is_refused_in_the_api_form(strict: ServerProcess, kind: str) -> None:
    answer = exchange(strict, WRONG[kind], seconds=3)
    assert status_of(answer) in (0, 400, 404, 408, 413) and b"Traceback" not in answer
    if answer:
        body, _ = json.JSONDecoder().raw_decode(answer.partition(b"\r\n\r\n")[2].decode())
        assert set(body["error"]) == {"message", "type", "param", "code"}
    assert alive(strict)


@pytest.mark.parametrize("size, status", [(10_000, 200), (17_000, 431), (1 << 20, 431), (20 << 20, 431)])
def test_size_of_a_head_is_bounded(strict: ServerProcess, size: int, status: int) -> None:
    before = strict.resident_bytes()
    answer = exchange(strict, b"GET /version HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * size + b"\r\n\r\n")
    # A client that is still sending may lose the answer to the reset of its connection.
    assert status_of(answer) in ((200,) if status == 200 else (431, 400, 0)), answer[:200]
    assert strict.resident_bytes() - before < 8 << 20
    assert alive(strict)


def test_number_of_headers_is_bounded_by_their_size(strict: ServerProcess) -> None:
    many = b"".join(b"X-%d: y\r\n" % index for index in range(100_000))
    assert status_of(exchange(strict, b"GET /version HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")) in (431, 400, 0)
    assert alive(strict)


def test_length_of_a_target_is_bounded(strict: ServerProcess) -> None:
    target = b"GET /version?" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert status_of(exchange(strict, target)) in (431, 400, 0)
    assert alive(strict)


def padded(size: int) -> bytes:
    """A body of exactly that size."""
    return BODY[:-1] + b" " * (size - len(BODY)) + b"}"


@pytest.mark.parametrize("size, status", [(102_400, 200), (102_401, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_size_of_a_body_is_bounded_at_the_byte(strict: ServerProcess, size: int, status: int, chunked: bool) -> None:
    body = padded(size)
    if chunked:
        pieces = [body[start : start + 1000] for start in range(0, size, 1000)]
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        answer = exchange(strict, POST + b"Transfer-Encoding: chunked\r\n\r\n" + sent)
    else:
        answer = exchange(strict, POST + b"Content-Length: %d\r\n\r\n" % size + body)
    assert status_of(answer) in ((200,) if status == 200 else (413, 0))
    assert alive(strict)


def test_length_alone_is_enough_to_refuse(strict: ServerProcess) -> None:
    start = time.monotonic()
    answer = exchange(strict, POST + b"Content-Length: 1000000000\r\n\r\n{")
    assert status_of(answer) == 413 and b"max_body_bytes" in answer and time.monotonic() - start < 1


def test_tiny_chunks_are_taken(strict: ServerProcess) -> None:
    body = padded(20_000)
    sent = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert status_of(exchange(strict, POST + b"Transfer-Encoding: chunked\r\n\r\n" + sent, piece=4096)) == 200
    assert alive(strict)


SLOW = {
    "nothing": b"",
    "half a line": b"GET /hea",
    "half a head": b"GET /health HTTP/1.1\r\nHost: x\r\n",
    "no body": POST + b"Content-Length: 100\r\n\r\n",
    "half a body": POST + b"Content-Length: 100\r\n\r\n" + BODY[:50],
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n20\r\nabc",
}


@pytest.mark.parametrize("kind", SLOW)
def test_slow_clients_are_closed_in_time(strict: ServerProcess, kind: str) -> None:
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as connection:
        connection.sendall(SLOW[kind])
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert status_of(answer) == 408 and b"request_timeout" in answer
    assert 0.5 < time.monotonic() - start < 3


def test_a_drop_now_and_then_does_not_buy_time(strict: ServerProcess) -> None:
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as connection:
        with pytest.raises(OSError):
            for byte in POST * 10:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
    assert time.monotonic() - start < 4


def test_many_slow_clients_keep_nobody_out(strict: ServerProcess) -> None:
    async def run() -> None:
        writers = []
        for index in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", strict.port)
            writer.write(list(SLOW.values())[index % len(SLOW)])
            writers.append(writer)
        start = time.monotonic()
        assert await asyncio.to_thread(alive, strict)
        assert time.monotonic() - start < 2
        for writer in writers:
            writer.close()

    asyncio.run(run())


def test_pipelined_requests_are_answered_in_order(strict: ServerProcess) -> None:
    second = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = exchange(strict, GOOD + second + second)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.index(b"cmpl-") < answer.index(b'"version"')


def test_nothing_is_written_into_an_answer_that_is_under_way(strict: ServerProcess) -> None:
    body = json.dumps({"model": "storyteller", "prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True})
    request = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body.encode()
    answer = exchange(strict, request + b"nothing of HTTP\r\n\r\n", seconds=5)
    first, _, second = answer.partition(b"HTTP/1.1 4")
    # One parser closes the connection, the other answers what is wrong once its turn has come.
    assert not second or first.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert alive(strict)


@pytest.mark.parametrize(
    "kind", [b"", b"Content-Type: text/plain\r\n", b"Content-Type: application/x-www-form-urlencoded\r\n"]
)
def test_bodies_that_a_foreign_page_can_have_sent_are_refused(strict: ServerProcess, kind: bytes) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + kind + b"Content-Length: %d\r\n\r\n" % len(BODY)
    answer = exchange(strict, head + BODY)
    assert status_of(answer) == 415
    assert b"Content-Type: application/json" in answer


@pytest.mark.parametrize("kind", [b"application/json; charset=utf-8", b"Application/JSON"])
def test_other_ways_to_say_json_are_understood(strict: ServerProcess, kind: bytes) -> None:
    head = GOOD.replace(b"application/json", kind)
    assert status_of(exchange(strict, head)) == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "PROPFIND"])
def test_other_methods_are_refused(strict: ServerProcess, method: str) -> None:
    answer = exchange(strict, f"{method} /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    assert status_of(answer) in (405, 400)


@pytest.mark.parametrize("host", [b"", b"a" * 5000, b"x/y?z#", b"[::1", b"127.0.0.1:99999", b"\xff"])
def test_host_means_nothing(strict: ServerProcess, host: bytes) -> None:
    answer = exchange(strict, b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert status_of(answer) in (200, 400)


def test_random_damage_is_survived(strict: ServerProcess) -> None:
    random_bytes = random.Random(7)
    before = strict.resident_bytes()
    for _ in range(150):
        damaged = bytearray(GOOD)
        for _ in range(random_bytes.randint(1, 8)):
            damaged[random_bytes.randrange(len(damaged))] = random_bytes.randrange(256)
        if random_bytes.random() < 0.3:
            damaged = damaged[: random_bytes.randrange(len(damaged))]
        with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as connection:
            connection.sendall(damaged)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert alive(strict)
    assert strict.resident_bytes() - before < 16 << 20


def test_h11_is_what_runs_without_httptools(tmp_path: Path) -> None:
    from quire.server.connections import protocol_class

    names = [base.__name__ for base in protocol_class(1, 1.0).__mro__]
    assert "HttpToolsProtocol" in names or "H11Protocol" in names


def test_client_that_does_not_read_loses_its_place(strict: ServerProcess) -> None:
    # Some megabytes of log-probabilities, more than the kernel keeps for a connection.
    body = {"model": "storyteller", "prompt": [5] * 900, "max_tokens": 1, "echo": True, "logprobs": 20, "n": 16}
    data = json.dumps({**body, "stream": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", strict.port))
        head = POST + b"X-Request-Id: of-a-slow-reader\r\nContent-Length: %d\r\n\r\n" % len(data)
        connection.sendall(head + data)
        start = time.monotonic()
        deadline = start + 30
        while "of-a-slow-reader: cmpl-" not in strict.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert time.monotonic() - start > 1, "request_timeout"
        strict.wait_until_idle()
    assert alive(strict)


def test_log_has_no_traceback(strict: ServerProcess) -> None:
    assert "Traceback" not in strict.log.read_text()
