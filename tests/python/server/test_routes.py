"""The other routes: probes, versions, schema, tokens, CORS, middleware, compatibility, HTTPS, and the demo server."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import quire
from quire import AsyncEngineArgs
from quire.server.app import openai_app
from quire.server.errors import ApiError
from quire.server.service import Service
from quire.server.watchdog import Watchdog
from quire.server_arguments import ServerArgs
from server_process import CHAT_TEMPLATE, ServerProcess, events, running_server

SMALL = ("--kv-cache-memory-bytes", "4M")
MESSAGES = [{"role": "user", "content": "Hi"}]


def get(server: ServerProcess, path: str) -> Any:
    status, _, body = server.request("GET", path)
    assert status == 200, body
    return json.loads(body)


def test_probes_and_version(server: ServerProcess) -> None:
    assert server.request("GET", "/health")[::2] == (200, b"")
    assert get(server, "/ready") == {"status": "ready"}
    assert server.request("HEAD", "/health")[0] == server.request("HEAD", "/ready")[0] == 200
    assert get(server, "/version") == {"version": quire.__version__}
    assert server.request("GET", "/docs")[0] == 200
    assert server.request("GET", "/")[0] == 200


def test_schema_names_every_field(server: ServerProcess) -> None:
    document = get(server, "/openapi.json")
    schemas = document["components"]["schemas"]
    for path, name in (("/v1/completions", "CompletionRequest"), ("/v1/chat/completions", "ChatRequest")):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
        fields = schemas[name]["properties"]
        assert {"model", "max_tokens", "temperature", "stream_options", "logit_bias", "min_p"} <= set(fields)
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in schemas


def test_unknown_paths_and_methods_have_the_api_form(server: ServerProcess) -> None:
    for method, path, expected in (("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("POST", "/health", 405)):
        status, headers, body = server.request(method, path)
        error = json.loads(body)["error"]
        assert status == error["code"] == expected and headers["content-type"] == "application/json"
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("text", ["Once upon a time", "Grüße 你好", "", "a" * 10_000])
@pytest.mark.parametrize("special", [True, False])
def test_tokens_there_and_back(server: ServerProcess, text: str, special: bool) -> None:
    status, answer = server.post("/tokenize", {"prompt": text, "add_special_tokens": special})
    if len(text) > 9000:
        assert status == 200 and answer["count"] > 1024, "a text may be longer than the context"
        return
    assert status == 200 and answer["count"] == len(answer["tokens"]) and answer["max_model_len"] == 1024
    assert (answer["tokens"][:1] == [1]) == special
    tokens = answer["tokens"][1:] if special else answer["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}) == (200, {"prompt": text})


def test_tokens_of_a_conversation(server: ServerProcess) -> None:
    status, answer = server.post("/tokenize", {"messages": MESSAGES, "model": "storyteller", "return_token_strs": True})
    assert status == 200 and len(answer["token_strs"]) == answer["count"]
    rendered = "user: Hi\nOnce upon a time there was"
    alike = server.post("/tokenize", {"prompt": rendered, "add_special_tokens": False})[1]
    assert alike["tokens"] == answer["tokens"]


@pytest.mark.parametrize(
    "path, body",
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}),
        ("/tokenize", {"prompt": 5}),
        ("/tokenize", {"prompt": "a\0"}),
        ("/tokenize", {"prompt": "x", "model": "another"}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [4096]}),
        ("/detokenize", {"tokens": "1"}),
    ],
)
def test_tokens_that_are_wrong(server: ServerProcess, path: str, body: Any) -> None:
    status, answer = server.post(path, body)
    assert status in (400, 404) and answer["error"]["message"]


@pytest.mark.parametrize(
    "body, param",
    [
        ({"prompt": "x"}, "model"),
        ({"model": "storyteller"}, "prompt"),
        ({"model": "another", "prompt": "x"}, "model"),
        ({"model": "storyteller", "prompt": "x", "temperature": "hot"}, "temperature"),
        ({"model": "storyteller", "prompt": "x", "stream_options": {"include_usage": 1}}, "stream_options"),
        ({"model": "storyteller", "prompt": "x", "max_tokens": 2000}, "max_tokens"),
        ({"model": "storyteller", "prompt": [5] * 2000}, "prompt"),
    ],
)
def test_errors_name_the_field(server: ServerProcess, body: Any, param: str) -> None:
    status, answer = server.post("/v1/completions", body)
    assert status == (404 if body.get("model") == "another" else 400)
    assert answer["error"]["param"] == param
    assert param in answer["error"]["message"] or "maximum context length" in answer["error"]["message"]


def test_too_long_a_prompt_is_told_in_the_words_that_clients_look_for(server: ServerProcess) -> None:
    _, answer = server.post("/v1/completions", {"model": "storyteller", "prompt": [5] * 1000, "max_tokens": 100})
    message = answer["error"]["message"]
    assert "maximum context length is 1024 tokens" in message and "1000 in the prompt" in message


def test_unknown_fields_are_ignored(server: ServerProcess) -> None:
    body = {"model": "storyteller", "prompt": "x", "max_tokens": 1, "some_new_field": {"a": 1}, "tools": None}
    assert server.post("/v1/completions", body)[0] == 200
    assert "'some_new_field'" in server.log.read_text()


def test_null_is_the_default(server: ServerProcess) -> None:
    names = "max_tokens temperature top_p n stop stream stream_options seed presence_penalty frequency_penalty"
    names += " logit_bias echo response_format best_of top_k min_p repetition_penalty stop_token_ids ignore_eos"
    names += " min_tokens skip_special_tokens include_stop_str_in_output logprobs suffix user guided_json"
    body = {**dict.fromkeys(names.split()), "model": "storyteller", "prompt": "Once", "max_tokens": 2}
    assert server.post("/v1/completions", body)[0] == 200
    body = {**dict.fromkeys(names.split()), "model": "storyteller", "messages": MESSAGES, "max_tokens": 2}
    body |= {"top_logprobs": None, "tools": None, "tool_choice": None, "add_generation_prompt": None, "audio": None}
    assert server.post("/v1/chat/completions", body)[0] == 200


def test_cors(server: ServerProcess) -> None:
    _, headers, _ = server.request("GET", "/v1/models", headers={"Origin": "http://elsewhere"})
    assert headers["access-control-allow-origin"] == "*"


MIDDLEWARE = """
class Stamp:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-stamp", b"1")]
            await send(message)

        await self.app(scope, receive, stamped)


async def count(request, call_next):
    answer = await call_next(request)
    answer.headers["x-count"] = "2"
    return answer


number = 5
"""


def test_middleware_of_the_operator(tmp_path: Path, run_quire: Any) -> None:
    (tmp_path / "my_middleware.py").write_text(MIDDLEWARE)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    words = ("--middleware", "my_middleware.Stamp", "--middleware", "my_middleware.count")
    with running_server(tmp_path, *SMALL, *words, PYTHONPATH=path) as server:
        _, headers, _ = server.request("GET", "/v1/models")
        assert (headers["x-stamp"], headers["x-count"]) == ("1", "2")
        body = {"model": "storyteller", "prompt": "x", "stream": True, "max_tokens": 3}
        assert b"[DONE]" in server.request("POST", "/v1/completions", body)[2]
    environment = {**os.environ, "PYTHONPATH": path}
    for wrong in ("my_middleware.number", "my_middleware.nothing", "no_such_module.Class"):
        result = run_quire("serve", "--port", "0", *SMALL, "--middleware", wrong, env=environment)
        assert result.returncode in (1, 2) and wrong in result.stderr and result.stderr.count("\n") == 1


def test_vllms_program_serves_the_same(tmp_path: Path) -> None:
    program = ("-m", "quire.entrypoints.openai.api_server")
    with running_server(tmp_path, *SMALL, "--chat-template", CHAT_TEMPLATE, program=program) as server:
        body = {"model": "storyteller", "messages": MESSAGES, "max_tokens": 2}
        assert server.post("/v1/chat/completions", body)[0] == 200


def test_demo_server(tmp_path: Path) -> None:
    with running_server(tmp_path, *SMALL, program=("-m", "quire.entrypoints.api_server")) as server:
        assert server.request("GET", "/health")[0] == 200
        body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8, "n": 1}
        status, whole = server.post("/generate", body)
        assert status == 200 and whole == {"text": ["Once upon a time there lived a king who had three sons"]}
        _, _, streamed = server.request("POST", "/generate", {**body, "stream": True})
        frames = streamed.split(b"\0")
        assert frames[-1] == b"" and json.loads(frames[-2]) == whole
        texts = [json.loads(frame)["text"][0] for frame in frames[:-1]]
        assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
        sampled = {**body, "temperature": 1.0, "n": 3, "seed": 1}
        assert len(server.post("/generate", sampled)[1]["text"]) == 3
        for wrong in ({}, {**body, "n": 0}, {**body, "unknown": 1}, {**body, "prompt": [1]}, {**body, "top_p": 2}):
            status, answer = server.post("/generate", wrong)
            assert status == 400 and answer["error"]["message"], wrong
        status, answer = server.post("/generate", {**body, "use_beam_search": True, "best_of": 2})
        assert status == 400 and "use_beam_search" in answer["error"]["message"]
        assert server.request("GET", "/v1/models")[0] == 404


def test_https(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    flags = ("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    with running_server(tmp_path, *SMALL, *flags) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        body = json.dumps({"model": "storyteller", "prompt": "Once", "stream": True, "max_tokens": 4}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"https://127.0.0.1:{server.port}/v1/completions", body, headers)
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            assert events(answer.read())
        assert server.stop() == 0


def test_ready_says_no_while_the_engine_makes_no_step() -> None:
    """A step that hangs cannot be had from a real engine, so the watchdog says what it would then."""

    async def status(app: Any, path: str) -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
        await app({**scope, "headers": [], "server": ("x", 1), "root_path": "", "http_version": "1.1"}, receive, send)
        return int(sent[0]["status"])

    async def run() -> None:
        async with quire.AsyncLLM(kv_cache_memory_bytes=4 << 20) as llm:
            service = Service(ServerArgs(engine=AsyncEngineArgs(), step_watchdog=0.2), llm, None)
            app = openai_app(service)
            assert (await status(app, "/health"), await status(app, "/ready")) == (200, 200)
            stuck = Watchdog(lambda: 0, lambda: True, 0.2)
            service.watchdog = stuck
            watch = asyncio.create_task(service.watch())
            outputs = service.llm.generate("Once", quire.SamplingParams(n=8, max_tokens=900, ignore_eos=True))
            with pytest.raises(ApiError, match="no step"):
                async for _ in outputs:
                    pass
            assert (await status(app, "/health"), await status(app, "/ready")) == (200, 503)
            watch.cancel()

    asyncio.run(run())
