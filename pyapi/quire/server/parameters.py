"""A request's fields as the engine's sampling parameters."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from quire import checks
from quire.sampling import SamplingParams, core_sampling
from quire.server.errors import bad_request, from_value_error
from quire.server.protocol import ChatRequest, CompletionRequest, GenerationRequest

if TYPE_CHECKING:
    from quire import _core

NAMES = tuple(entry.name for entry in fields(SamplingParams))

# Fields with the same name and meaning on both sides.
_SAME = (
    *("n", "best_of", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "min_tokens"),
    *("skip_special_tokens", "include_stop_str_in_output"),
)

CHAT_TEMPERATURE = 0.7
MAX_BIAS = 100.0


def sampling_params(request: GenerationRequest, defaults: dict[str, Any], max_tokens: int | None) -> SamplingParams:
    """What the request asks for, over what the model's authors recommend.

    Args:
        max_tokens: the number of tokens as the request's kind counts it; None: as many as fit.

    Raises: ApiError 400 naming the field.
    """
    values: dict[str, Any] = {"temperature": CHAT_TEMPERATURE} if isinstance(request, ChatRequest) else {}
    values |= defaults
    for name in _SAME:
        value = getattr(request, name)
        if value is not None:
            values[name] = value
    values["max_tokens"] = max_tokens
    # A completion goes on with the prompt, space included; an answer begins.
    values["text_continues_prompt"] = isinstance(request, CompletionRequest)
    values["logit_bias"] = _logit_bias(request.logit_bias)
    values["logprobs"] = num_logprobs(request)
    if isinstance(request, CompletionRequest) and request.echo:
        values["prompt_logprobs"] = values["logprobs"]
    try:
        return SamplingParams(**values)
    except ValueError as error:
        raise from_value_error(error, NAMES, renamed(request)) from None


def num_logprobs(request: GenerationRequest) -> int | None:
    """How many of the best log-probabilities come beside the chosen one; None: not even that."""
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if not isinstance(request, ChatRequest) or not request.logprobs:
        if isinstance(request, ChatRequest) and request.top_logprobs:
            raise bad_request("top_logprobs needs logprobs to be true.", "top_logprobs")
        return None
    return request.top_logprobs or 0


def renamed(request: GenerationRequest) -> dict[str, str]:
    """Parameters that the request calls by other names."""
    if not isinstance(request, ChatRequest):
        return {"prompt_logprobs": "logprobs", "prompt_token_ids": "prompt"}
    names = {"prompt_token_ids": "messages", "logprobs": "top_logprobs"}
    if request.max_completion_tokens is not None:
        names["max_tokens"] = "max_completion_tokens"
    return names


def translated(params: SamplingParams, request: GenerationRequest) -> _core.SamplingParams:
    """The same for the engine. Raises: ApiError 400 for what it does not offer."""
    try:
        return core_sampling(params)
    except (ValueError, NotImplementedError) as error:
        raise from_value_error(error, NAMES, renamed(request)) from None


def _logit_bias(value: Any) -> dict[int, float] | None:
    """Keys are texts in JSON; biases beyond what OpenAI allows are clamped, as in vLLM."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise bad_request("logit_bias must be an object of token id to number.", "logit_bias")
    result: dict[int, float] = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise bad_request(f"logit_bias: {key[:50]!r} is not a token id.", "logit_bias")
        try:
            number = checks.as_float(f"logit_bias[{key}]", bias)
        except ValueError as error:
            raise bad_request(str(error), "logit_bias") from None
        result[int(key)] = max(-MAX_BIAS, min(MAX_BIAS, number))
    if len(result) != len(value):
        raise bad_request("logit_bias has a token id twice.", "logit_bias")
    return result


def require_room(prompt_tokens: int, max_tokens: int | None, max_model_len: int, source: str, count: str) -> None:
    """Raise if there is no prompt, or it and its completion are longer than the context.

    Args:
        source, count: the fields that the prompt and the number of tokens come from.

    Raises: ApiError 400, in the words that clients of OpenAI's API look for.
    """
    if not prompt_tokens:
        raise bad_request(f"{source} must have at least one token.", source)
    fits = prompt_tokens < max_model_len
    wanted = max_tokens or (0 if fits else 1)
    if fits and prompt_tokens + wanted <= max_model_len:
        return
    raise bad_request(
        f"This model's maximum context length is {max_model_len} tokens. However, you requested "
        f"{prompt_tokens + wanted} tokens ({prompt_tokens} in the {source}, {wanted} in the completion). "
        f"Please reduce the length of the {source} or completion.",
        count if fits else source,
    )
