"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from typing import Any

from starlette.responses import Response

from quire.server import events
from quire.server.admission import Ticket
from quire.server.errors import bad_request, shortened
from quire.server.generation import Choice, Generation, Job, Plan
from quire.server.logprobs import ChatLogprobs
from quire.server.parameters import num_logprobs, renamed, require_room, sampling_params, translated
from quire.server.protocol import TEMPLATE_VARIABLES, ChatRequest, read_request
from quire.server.service import Service


class ChatShape:
    """Answers with messages."""

    chat = True
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def __init__(self, role: str, num_best: int | None, echoed: str) -> None:
        self._role = role
        self._logprobs = None if num_best is None else ChatLogprobs(num_best)
        self._echoed = echoed

    def opening(self, choice: Choice, made: events.Events) -> bytes:
        """The role, and what is echoed."""
        echoed = made.piece(choice.index, self._echoed) if self._echoed else b""
        return made.role(choice.index, self._role) + echoed

    def text_in_front(self, choice: Choice) -> str:
        """What is echoed."""
        return self._echoed

    def logprobs(self, choice: Choice) -> dict[str, Any] | None:
        """Of what is new."""
        return None if self._logprobs is None else self._logprobs.piece(choice.logprobs)

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Index and message."""
        return {
            "index": choice.index,
            "message": {"role": self._role, "content": self._echoed + choice.text, "refusal": None},
        }


async def create_chat_completion(service: Service, body: dict[str, Any], request_id: str, ticket: Ticket) -> Response:
    """Answer a conversation. Raises: ApiError."""
    arrival = time.monotonic()
    request = read_request(ChatRequest, body)
    service.require_model(request.model)
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    params = sampling_params(request, service.defaults, service.defaults.get("max_tokens") if asked is None else asked)
    messages = read_messages(request.messages)
    text, token_ids = await render(service, request, messages)
    count = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    require_room(len(token_ids), asked, service.max_model_len, "messages", count)
    if service.chat_template is None:
        params = params.ended_by(*service.llm.tokenizer.chat_ends())
    core_params = translated(params, request)
    ticket.hold(1, len(token_ids))
    answers = request.add_generation_prompt is not False
    role = service.arguments.response_role if answers else messages[-1]["role"]
    options = request.stream_options
    plan = Plan(
        shape=ChatShape(role, num_logprobs(request), _echoed(messages, role) if request.echo else ""),
        jobs=[Job(0, token_ids, text)],
        params=params,
        core_params=core_params,
        stream=bool(request.stream),
        include_usage=None if options is None else bool(options.include_usage),
        continuous_usage=options is not None and bool(options.continuous_usage_stats),
        drop_generated=False,
        answer_id=f"chatcmpl-{uuid.uuid4().hex}",
        request_id=request_id,
        renamed=renamed(request),
        arrival=arrival,
    )
    return Generation(service, plan, ticket)


def _echoed(messages: list[dict[str, Any]], role: str) -> str:
    """The last message, if the answer goes on with it."""
    last = messages[-1]
    return str(last["content"] or "") if last["role"] == role else ""


async def render(service: Service, request: ChatRequest, messages: list[dict[str, Any]]) -> tuple[str, list[int]]:
    """The prompt of a conversation, as text and ids. Raises: ApiError 400."""
    variables = request.chat_template_kwargs or {}
    for name, value in variables.items():
        if name not in TEMPLATE_VARIABLES or not isinstance(value, (bool, str, int, float, type(None))):
            allowed = ", ".join(sorted(TEMPLATE_VARIABLES))
            raise bad_request(
                f"chat_template_kwargs: {shortened(repr(name))} is not offered; simple values of {allowed} are.",
                "chat_template_kwargs",
            )
    text = await service.render_chat(
        messages, add_generation_prompt=request.add_generation_prompt is not False, **variables
    )
    # The template writes the special tokens itself, unless the client knows better.
    ids = await service.encode([text], bool(request.add_special_tokens), "messages")
    return text, ids[0]


def read_messages(value: Any) -> list[dict[str, Any]]:
    """Messages with contents as texts: lists of parts are joined, as vLLM does.

    Raises: ApiError 400 naming the message that is wrong.
    """
    if not isinstance(value, list) or not value:
        raise bad_request("messages must be a list of at least one message.", "messages")
    return [_read_message(f"messages[{index}]", message) for index, message in enumerate(value)]


def _read_message(name: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise bad_request(f"{name} must be an object with role and content.", "messages")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise bad_request(f"{name}.role must be a text.", "messages")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_read_part(f"{name}.content[{index}]", part) for index, part in enumerate(content))
    elif content is None and role != "assistant":
        raise bad_request(f"{name}.content is missing.", "messages")
    elif content is not None and not isinstance(content, str):
        raise bad_request(f"{name}.content must be a text or a list of parts of type text.", "messages")
    return {**message, "content": content}


def _read_part(name: str, part: Any) -> str:
    if not isinstance(part, dict):
        raise bad_request(f"{name} must be an object with type and text.", "messages")
    kind = part.get("type")
    if kind != "text":
        raise bad_request(f"{name}: type {shortened(repr(kind))} is not offered; only 'text' is.", "messages")
    if not isinstance(part.get("text"), str):
        raise bad_request(f"{name}.text must be a text.", "messages")
    return str(part["text"])
