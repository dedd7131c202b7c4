"""Bodies of requests: OpenAI's fields and vLLM's additions, with their types and defaults.

Values are looked at closely here and in SamplingParams, so that the engine only sees what it can do. `null` stands for
the default everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from quire.server.errors import ApiError, bad_request, shortened

logger = logging.getLogger("quire.server")

# Shown in the schema, checked by hand: prompts may have a million ids.
PromptField = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ]
        }
    ),
]
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
MessagesField = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "role": {"type": "string"},
                    "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]},
                },
                "required": ["role"],
            },
        }
    ),
]
IdsField = Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "integer"}})]
BiasField = Annotated[Any, WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}})]

# Field -> values that ask for nothing; null does so too. Everything else would change the answer, and is refused.
NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "cache_salt": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "kv_transfer_params": (),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "lora_request": (),
    "mm_processor_kwargs": (),
    "modalities": (["text"],),
    "prediction": (),
    "priority": (0,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "suffix": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
# Those that OpenAI's clients send and that change nothing about the text.
WITHOUT_EFFECT = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention parallel_tool_calls"
    " reasoning_effort verbosity request_id spaces_between_special_tokens include_reasoning".split()
)

# What templates may be told by a request; their other variables are the server's.
TEMPLATE_VARIABLES = frozenset(("enable_thinking", "thinking", "reasoning_effort"))


MAX_FIELDS = 256


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = Field(None, description="a last event with the usage, and none before it")
    continuous_usage_stats: bool | None = Field(None, description="the usage so far in every event")


class ResponseFormat(BaseModel):
    """Only text is offered."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text"]


class GenerationRequest(BaseModel):
    """What completions and chat have in common."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str = Field(description="one of GET /v1/models")
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: BiasField = Field(None, description="token id to bias, which is clamped to [-100, 100]")
    echo: bool | None = False
    response_format: ResponseFormat | None = None
    best_of: int | None = Field(None, description="must be n")
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: IdsField = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: PromptField = Field(description="a text, a list of texts, token ids, or a list of lists of them")
    max_tokens: int | None = Field(16, description="null: what the context has room for")
    logprobs: int | None = Field(None, description="best log-probabilities per token")
    add_special_tokens: bool | None = True


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: MessagesField = Field(description="the conversation; contents are texts, or lists of parts of type text")
    max_completion_tokens: int | None = Field(None, description="today's name of max_tokens")
    logprobs: bool | None = False
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = True
    add_special_tokens: bool | None = False
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeRequest(BaseModel):
    """POST /tokenize: a prompt or messages."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    model: str | None = None
    prompt: str | None = None
    messages: MessagesField = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = True
    return_token_strs: bool | None = False


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    model: str | None = None
    tokens: IdsField = Field(description="token ids")


_Request = TypeVar("_Request", bound=BaseModel)


def read_request(kind: type[_Request], body: dict[str, Any]) -> _Request:
    """Check a body's fields and their types.

    Raises: ApiError 400 naming the field that is wrong, missing or not offered.
    """
    if len(body) > MAX_FIELDS:
        raise bad_request(f"The body must have at most {MAX_FIELDS} fields, got {len(body)}.")
    if issubclass(kind, GenerationRequest):
        _refuse_not_offered(body)
    try:
        request = kind.model_validate(body)
    except ValidationError as error:
        raise _first_of(error) from None
    _note_unknown(request.model_extra or {})
    return request


def _refuse_not_offered(body: Mapping[str, Any]) -> None:
    for name in NOT_OFFERED.keys() & body.keys():
        value = body[name]
        neutral = any(value == one and type(value) is type(one) for one in NOT_OFFERED[name])
        if value is not None and not neutral:
            raise bad_request(f"{name} is not offered by this server.", name)
    form = body.get("response_format")
    if isinstance(form, dict) and isinstance(form.get("type"), str) and form["type"] != "text":
        kind = shortened(repr(form["type"]))
        raise bad_request(f"response_format: type {kind} is not offered by this server; use 'text'.", "response_format")


def _first_of(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    # The name of a branch of a union (str, list[str]) is no part of the path.
    path = [str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier()]
    name = str(first["loc"][0]) if first["loc"] else ""
    where = ".".join(path[:1] + [part for part in path[1:] if part not in ("str", "int", "float", "bool")]) or name
    if first["type"] == "missing":
        return bad_request(f"{where} is missing.", name)
    message = first["msg"][:1].lower() + first["msg"][1:]
    return bad_request(f"{where}: {message}, got {shortened(repr(first['input']))}.", name)


_noted: set[str] = set()


def _note_unknown(extra: Mapping[str, Any]) -> None:
    """Fields that nobody knows are ignored, as in vLLM, and the log says so once."""
    if len(_noted) >= 100:
        return
    for name in extra.keys() - NOT_OFFERED.keys() - WITHOUT_EFFECT - _noted:
        if len(_noted) < 100 and len(name) <= 40:
            _noted.add(name)
            logger.warning("requests have the unknown field %r; it is ignored", name)
