"""Answer a file of requests in OpenAI's batch format, with a model that is loaded here.

  quire run-batch -i requests.jsonl -o answers.jsonl --model ./model
  quire run-batch -i - -o - < requests.jsonl > answers.jsonl

Each line is one request, such as

  {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
   "body": {"model": "./model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}}

on one line; /v1/completions is answered too. Each gets a line in the output, in the order of the input, with
response.status_code, response.body, and error where there is one. A wrong line loses none of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import sys
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from quire.arguments import AsyncEngineArgs
from quire.cli import EXIT_ERROR, UsageError, one_line
from quire.commands import console
from quire.commands.flags import add_field_flags, given
from quire.server_arguments import ServerArgs

if TYPE_CHECKING:
    from quire.server.service import Service

USAGE = "-i FILE -o FILE [FLAG ...]"

URLS = ("/v1/completions", "/v1/chat/completions")

# Of the server's flags those that change answers.
SERVER_FIELDS = ("served_model_name", "chat_template", "response_role")
SERVER_FIELDS_LEFT_OUT = tuple(name for name in ServerArgs.__dataclass_fields__ if name not in SERVER_FIELDS)
ENGINE_FIELDS_LEFT_OUT = ("max_queued_requests", "disable_log_stats", "disable_log_requests")

# Requests in the engine for each sequence of a step: the next ones wait there, not here.
REQUESTS_PER_SEQUENCE = 2

UNBOUNDED = 2**31 - 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire run-batch`."""
    parser.add_argument("-i", "--input-file", metavar="FILE", required=True, help="requests; - for stdin")
    parser.add_argument("-o", "--output-file", metavar="FILE", required=True, help="answers; - for stdout")
    parser.add_argument("--disable-tqdm", action="store_true", help="no progress bar")
    add_field_flags(parser, AsyncEngineArgs, exclude=ENGINE_FIELDS_LEFT_OUT)
    add_field_flags(parser, ServerArgs, exclude=SERVER_FIELDS_LEFT_OUT)


def run(options: argparse.Namespace) -> int:
    """Run `quire run-batch`."""
    arguments = _arguments(options)
    if options.input_file != "-" and _same_file(options.input_file, options.output_file):
        raise UsageError("the output would overwrite the input: give another --output-file")
    template = arguments.read_chat_template()
    with _opened_input(options.input_file) as source:
        from quire.async_llm import AsyncLLM
        from quire.server.service import Service

        llm = AsyncLLM.from_engine_args(arguments.engine)
        try:
            # Only now, so that a model that cannot be loaded leaves an older output as it is.
            with _opened_output(options.output_file) as target:
                batch = Batch(Service(arguments, llm, template), source, target, options.disable_tqdm)
                asyncio.run(batch.run())
        finally:
            llm.close()
    failed = f", {batch.num_failed} failed" if batch.num_failed else ""
    console.note(f"{batch.num_lines - batch.num_failed} of {batch.num_lines} requests answered{failed}")
    return EXIT_ERROR if batch.num_lines and batch.num_failed == batch.num_lines else 0


def _arguments(options: argparse.Namespace) -> ServerArgs:
    engine = given(options, AsyncEngineArgs, ENGINE_FIELDS_LEFT_OUT)
    server = given(options, ServerArgs, SERVER_FIELDS_LEFT_OUT)
    try:
        return ServerArgs(
            engine=AsyncEngineArgs(**engine, disable_log_requests=True),
            max_queued_requests=UNBOUNDED,
            max_queued_tokens=UNBOUNDED,
            **server,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _same_file(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(os.path.expanduser(one), os.path.expanduser(other))
    return False


@contextlib.contextmanager
def _opened_input(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with open(os.path.expanduser(path), "rb") as file:
        yield file


@contextlib.contextmanager
def _opened_output(path: str) -> Iterator[TextIO]:
    # Half a surrogate pair, which cannot be encoded, becomes its escape in JSON.
    if path == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield sys.stdout
        return
    with open(os.path.expanduser(path), "w", encoding="utf-8", errors="backslashreplace") as file:
        yield file


class BadLineError(Exception):
    """A line that is no request."""


class Batch:
    """The lines of a file on their way through the handlers of the server."""

    def __init__(self, service: Service, source: BinaryIO, target: TextIO, disable_tqdm: bool) -> None:
        from quire.server.app import openai_app

        self._app = openai_app(service)
        self._source = source
        self._target = target
        self._disable_tqdm = disable_tqdm
        self._at_once = REQUESTS_PER_SEQUENCE * service.arguments.engine.max_num_seqs
        self._seen: set[str] = set()
        # Answers that wait for those of earlier lines.
        self._ready: dict[int, dict[str, Any]] = {}
        self._num_written = 0
        self.num_lines = 0
        self.num_failed = 0

    async def run(self) -> None:
        """Answer all lines."""
        from tqdm import tqdm

        gate = asyncio.Semaphore(self._at_once)
        number = 0
        with tqdm(desc="Requests", unit="", disable=self._disable_tqdm) as bar:

            def done(_: asyncio.Task[None]) -> None:
                gate.release()
                bar.update(1)

            async with asyncio.TaskGroup() as group:
                # The input may be a pipe that somebody fills slowly.
                while line := await asyncio.to_thread(self._source.readline):
                    number += 1
                    if line.strip():
                        await gate.acquire()
                        group.create_task(self._answer(self.num_lines, number, line)).add_done_callback(done)
                        self.num_lines += 1

    async def _answer(self, index: int, number: int, line: bytes) -> None:
        custom_id: str | None = None
        try:
            request = _parse(line)
            custom_id = request["custom_id"]
            if custom_id in self._seen:
                raise BadLineError(f"custom_id={custom_id!r} is there twice.")
            self._seen.add(custom_id)
            _check(request)
            status, body = await ask(self._app, request["url"], json.dumps(request["body"]).encode())
        except BadLineError as error:
            status = 400
            body = {"error": {"message": f"line {number}: {error}", "type": "BadRequestError", "code": 400}}
        except Exception as error:  # no line may lose the others
            status = 500
            body = {"error": {"message": f"line {number}: {one_line(error)}", "type": "InternalError", "code": 500}}
        self._keep(index, _answer_line(custom_id, status, body))

    def _keep(self, index: int, answer: dict[str, Any]) -> None:
        """Write what is next in order, so that little is lost if the program is ended."""
        self._ready[index] = answer
        self.num_failed += answer["error"] is not None
        while self._num_written in self._ready:
            answer = self._ready.pop(self._num_written)
            self._target.write(json.dumps(answer, ensure_ascii=False) + "\n")
            self._num_written += 1
        self._target.flush()


def _parse(line: bytes) -> dict[str, Any]:
    """Raises: BadLineError."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"not JSON: {error}") from None
    if not isinstance(request, dict):
        raise BadLineError("not a JSON object with custom_id, method, url and body.")
    custom_id = request.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise BadLineError("custom_id must be a text.")
    return request


def _check(request: dict[str, Any]) -> None:
    if request.get("method") != "POST":
        raise BadLineError(f"method must be 'POST', got {request.get('method')!r:.50}.")
    if request.get("url") not in URLS:
        raise BadLineError(f"url must be {' or '.join(URLS)}, got {request.get('url')!r:.50}.")
    body = request.get("body")
    if not isinstance(body, dict):
        raise BadLineError("body must be an object.")
    if body.get("stream"):
        raise BadLineError("body.stream is not offered in a batch.")


def _answer_line(custom_id: str | None, status: int, body: Any) -> dict[str, Any]:
    problem = body.get("error") if status != 200 and isinstance(body, dict) else None
    error = None if status == 200 else {"code": str(status), "message": (problem or {}).get("message", "failed")}
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": uuid.uuid4().hex, "body": body},
        "error": error,
    }


async def ask(app: Any, path: str, body: bytes) -> tuple[int, Any]:
    """Status and JSON that an ASGI application answers a POST with."""
    status = 500
    parts: list[bytes] = []
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "client": None,
        "server": None,
    }
    # Nothing more ever comes: a client that has gone would look different.
    await app(scope, messages.get, send)
    return status, json.loads(b"".join(parts))
