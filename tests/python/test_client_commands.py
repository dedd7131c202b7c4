"""`quire complete` and `quire chat --url`: against the server itself, and against one that misbehaves."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.client import Address, Client, ServerError, api_key
from server_process import running_server

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FIXED = ["--temperature", "0", "--max-tokens", "12", "--ignore-eos"]


@pytest.fixture(scope="module")
def server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny Llama behind a key."""
    words = ["--served-model-name", "tiny", "other", "--api-key", "sesame", "--kv-cache-memory-bytes", "4M"]
    with running_server(tmp_path_factory.mktemp("server"), str(tiny_llama), *words) as running:
        yield running.url


@pytest.fixture
def to_server(server: str) -> list[str]:
    return ["--url", server, "--api-key", "sesame"]


@pytest.fixture
def expected(llm: LLM) -> str:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    return llm.generate("The", params, use_tqdm=False)[0].outputs[0].text


def test_complete_streams_what_generate_would_make(run_quire: Run, to_server: list[str], expected: str) -> None:
    result = run_quire("complete", "The", *to_server, *FIXED)
    assert result.stdout == expected.removesuffix("\n") + "\n", result.stderr
    assert re.fullmatch(r"12 tokens, [\d.]+ tokens/s, first token after \d+ ms\n", result.stderr)
    assert run_quire("complete", "--quiet", "--echo", *to_server, *FIXED, input="The\n").stdout.startswith("The")


def test_complete_shows_several_completions_and_json_at_the_end(run_quire: Run, to_server: list[str]) -> None:
    words = ["complete", "The", *to_server, "--seed", "1", "--max-tokens", "3", "--ignore-eos"]
    result = run_quire(*words, "--n", "2")
    assert re.findall(r"^--- (\d) of 2$", result.stdout, re.MULTILINE) == ["1", "2"], result.stderr
    answer = json.loads(run_quire(*words, "--json", "--logprobs", "1").stdout)
    assert answer["model"] == "tiny"  # the first of its names
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 3


def test_a_short_context_is_not_asked_for_more_than_it_has(run_quire: Run, to_server: list[str]) -> None:
    assert run_quire("complete", "The", *to_server, "--ignore-eos").stderr.startswith("128 tokens")  # of 256


def test_the_key_may_come_from_the_environment_and_the_model_be_named(run_quire: Run, server: str) -> None:
    import os

    words = ["complete", "The", "--url", server + "/v1/", "--model-name", "other", "--max-tokens", "2", "--quiet"]
    for variable in ("VLLM_API_KEY", "QUIRE_API_KEY"):
        result = run_quire(*words, env={**os.environ, variable: "sesame"})
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout
    assert api_key("given") == "given"


REFUSED = [
    ("complete x --url {server}", 1, "key"),
    ("complete x --url {server} --api-key sesame --model-name none", 1, "`none` does not exist"),
    ("complete x --url {server} --api-key sesame --temperature -1", 2, "temperature must be non-negative"),
    ("complete x --url {server} --api-key sesame --logprobs 100", 1, "logprobs"),
    ("complete x --url http://127.0.0.1:9", 1, "127.0.0.1:9 cannot be reached: Connection refused; is the server"),
    ("complete x --url http://no.such.host.invalid", 1, "there is no host 'no.such.host.invalid'"),
    ("complete x --url ftp://host", 2, "url must be like http://127.0.0.1:8000, got 'ftp://host'"),
    ("complete x --url http://host:port", 2, "url must be like"),
    ("complete x --url https://{host} --api-key sesame", 1, "cannot be reached"),
    ("complete", 2, "no prompt"),
    ("chat --url http://127.0.0.1:9", 1, "cannot be reached"),
    ("chat --url {server} --dtype half", 2, "--dtype is about a model that is loaded here"),
    ("chat --url {server} --chat-template x", 2, "a server has its own template"),
    ("chat --api-key x", 2, "give its --url too"),
    ("chat --url {server} --api-key sesame --top-p 2", 2, "top_p must be in"),
]


@pytest.mark.parametrize(("words", "status", "says"), REFUSED)
def test_what_goes_wrong_is_told_in_one_line(run_quire: Run, server: str, words: str, status: int, says: str) -> None:
    host = server.removeprefix("http://")
    result = run_quire(*words.format(server=server, host=host).split(" "))
    assert (result.returncode, result.stderr.count("\n")) == (status, 1), result.stderr
    assert result.stderr.startswith("quire: error: ")
    assert says in result.stderr
    assert result.stdout == ""


def test_chat_with_a_server_is_chat(run_quire: Run, to_server: list[str], tiny_llama: Path) -> None:
    words = ["--system", "Be brief.", *FIXED]
    lines = "Hello\n/help\nAnd?\n/clear\n/nonsense\nHello\n/exit\nnever read\n"
    remote = run_quire("chat", *to_server, *words, input=lines)
    local = run_quire("chat", "--model", str(tiny_llama), *words, input=lines)
    assert remote.returncode == 0, remote.stderr
    assert remote.stdout == local.stdout != ""
    assert remote.stderr == local.stderr
    assert "unknown command /nonsense" in remote.stderr


def test_chat_goes_on_after_what_a_server_refuses(run_quire: Run, to_server: list[str]) -> None:
    result = run_quire("chat", *to_server, *FIXED, input="z" * 400 + "\nHello\n")
    assert result.returncode == 0
    assert "(/clear makes room)" in result.stderr
    assert result.stdout.strip()


ENDLESS = b": and so on\n\n"


class Scripted(BaseHTTPRequestHandler):
    """Answers every request with the bytes of `script`, whatever they are, and closes the connection."""

    script = b""
    models = b'{"data": [{"id": "m"}]}'
    client_gone = threading.Event()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(b"HTTP/1.1 200 OK\r\n\r\n" + type(self).models)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(type(self).script)

    def _send(self, data: bytes) -> None:
        self.close_connection = True
        self.wfile.write(data)
        if data.endswith(ENDLESS):
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(EVENT)
                    time.sleep(0.01)
            type(self).client_gone.set()


@pytest.fixture(scope="module")
def scripted() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


STREAM = b"HTTP/1.1 200 OK\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "text": "Hi"}]}\n\n'


def test_ctrl_c_ends_the_request_at_the_server(scripted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "script", STREAM + ENDLESS)
    words = ["complete", "x", "--url", scripted]
    process = subprocess.Popen([sys.executable, "-m", "quire", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(2) == b"Hi"
    process.send_signal(signal.SIGINT)
    out, shown = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out.endswith(b"\n")  # the shell's prompt gets a line of its own
    assert b"Traceback" not in shown
    assert Scripted.client_gone.wait(10)


MISBEHAVIOUR = [
    (b"", "cannot be reached"),
    (b"nonsense\r\n\r\n", "cannot be reached"),
    (b"HTTP/1.1 500 Oh\r\n\r\noh", "the server answered with status 500"),
    (b'HTTP/1.1 429 No\r\nRetry-After: 3\r\n\r\n{"error": {"message": "full"}}', "full"),
    (b'HTTP/1.1 400 No\r\n\r\n{"error": "text"}', "status 400"),
    (STREAM + EVENT, "ended the answer in the middle"),
    (STREAM + EVENT + b"data: {nonsense\n\n", "no JSON object"),
    (STREAM + EVENT + b"data: [1]\n\n", "no JSON object"),
    (STREAM + EVENT + b'data: {"error": {"message": "broke"}}\n\n', "broke"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "in the middle"),
]


@pytest.mark.parametrize(("script", "says"), MISBEHAVIOUR)
def test_a_server_that_misbehaves_gives_one_line(
    scripted: str, script: bytes, says: str, monkeypatch: pytest.MonkeyPatch, run_quire: Run
) -> None:
    monkeypatch.setattr(Scripted, "script", script)
    result = run_quire("complete", "x", "--url", scripted)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr


def test_events_are_read_whatever_they_are_wrapped_in(scripted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "script", STREAM + b": hello\r\n\r\nevent: x\n" + EVENT + b"data:[DONE]\n\n" + EVENT)
    with Client(scripted).stream("/v1/completions", {}) as events:
        assert [event["choices"][0]["text"] for event in events] == ["Hi"]


@pytest.mark.parametrize("listed", [b"{}", b'{"data": []}', b"[]", b'{"data": [{}]}', b"text"])
def test_a_server_without_models_is_told(scripted: str, listed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "models", listed)
    with pytest.raises(ServerError, match="lists no model|something else than JSON"):
        Client(scripted).model()
    assert Client(scripted).model("m") == ("m", None)  # whether there is such a model, the request will tell


def test_a_refusal_tells_when_to_come_again(scripted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "script", b"HTTP/1.1 429 No\r\nRetry-After: 3\r\n\r\n{}")
    with pytest.raises(ServerError) as caught:
        Client(scripted).post("/v1/completions", {})
    assert (caught.value.status, caught.value.retry_after) == (429, 3.0)


def test_addresses_are_read_as_people_write_them() -> None:
    for url in ("127.0.0.1:8000", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/"):
        assert str(Address.parse(url)) == "http://127.0.0.1:8000"
    assert Address.parse("https://host/api/v1/") == Address("https", "host", 443, "/api")
    assert str(Address.parse("http://[::1]:80")) == "http://[::1]:80"
    for url in ("", "http://", "ftp://x", "http://x:99999", "http://x:y"):
        with pytest.raises(ValueError, match="url must be like"):
            Address.parse(url)
