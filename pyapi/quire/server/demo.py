"""The demo server of vLLM 0.4.0: POST /generate, and nothing of OpenAI's."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from fastapi import Request
from starlette.responses import Response

from quire.sampling import SamplingParams
from quire.server.admission import Ticket
from quire.server.app import bare_app, fenced, generate
from quire.server.errors import ApiError, bad_request, from_value_error, shortened
from quire.server.gate import send_error
from quire.server.parameters import NAMES, require_room
from quire.server.reading import Receive, Scope, Send
from quire.server.service import Service


def demo_app(service: Service) -> Any:
    """GET /health and POST /generate."""
    app = bare_app(service)

    @app.get("/health", summary="Whether the process and its engine are alive")
    async def health() -> Response:
        service.require_healthy()
        return Response()

    @app.post("/generate", summary="prompt, stream, and any field of SamplingParams")
    async def answer(request: Request) -> Response:
        return await generate(service, request, _create)

    return fenced(app, service.arguments)


async def _create(service: Service, body: dict[str, Any], request_id: str, ticket: Ticket) -> Response:
    prompt, stream = body.pop("prompt", None), body.pop("stream", False)
    if not isinstance(prompt, str):
        raise bad_request("prompt must be a text.", "prompt")
    if not isinstance(stream, bool):
        raise bad_request("stream must be true or false.", "stream")
    for name in body:
        if name not in NAMES:
            raise bad_request(f"{shortened(name)!r} is no field of SamplingParams.", name)
    try:
        # Prompt and text are shown as one.
        params = SamplingParams(**{"text_continues_prompt": True, **body})
    except ValueError as error:
        raise from_value_error(error, NAMES) from None
    token_ids = (await service.encode([prompt], True, "prompt"))[0]
    require_room(len(token_ids), None, service.max_model_len, "prompt", "max_tokens")
    ticket.hold(1, len(token_ids))
    return _Answer(service, prompt, token_ids, params, stream, ticket)


class _Answer(Response):
    """One JSON object {"text": [...]}, or one after each step, each ended by a NUL byte."""

    def __init__(
        self,
        service: Service,
        prompt: str,
        token_ids: list[int],
        params: SamplingParams,
        stream: bool,
        ticket: Ticket,
    ) -> None:
        super().__init__()
        self._service = service
        self._prompt = {"prompt": prompt, "prompt_token_ids": token_ids}
        self._params = params
        self._stream = stream
        self._ticket = ticket
        self._name = uuid.uuid4().hex
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self._answer(send)
        except (ValueError, NotImplementedError) as error:
            await self._refuse(send, from_value_error(error, NAMES))
        except ApiError as error:
            await self._refuse(send, error)
        finally:
            watch.cancel()
            self._ticket.release()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await self._service.llm.abort(self._name)

    async def _answer(self, send: Send) -> None:
        body = b"{}"
        async for output in self._service.llm.generate(self._prompt, self._params, self._name):
            body = json.dumps({"text": [f"{output.prompt}{one.text}" for one in output.outputs]}).encode()
            if self._stream:
                await self._start(send)
                await send({"type": "http.response.body", "body": body + b"\0", "more_body": True})
        await self._start(send)
        await send({"type": "http.response.body", "body": b"" if self._stream else body})

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _refuse(self, send: Send, error: ApiError) -> None:
        if self._started:
            await send({"type": "http.response.body", "body": error.body() + b"\0"})
        else:
            await send_error(send, error)
