"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from typing import Any

from starlette.responses import Response

from quire import checks
from quire.server import events
from quire.server.admission import Ticket
from quire.server.errors import bad_request
from quire.server.generation import Choice, Generation, Job, Plan
from quire.server.logprobs import LegacyLogprobs
from quire.server.parameters import num_logprobs, renamed, require_room, sampling_params, translated
from quire.server.protocol import CompletionRequest, read_request
from quire.server.service import Service


class CompletionShape:
    """Answers with `text`."""

    chat = False
    object_name = "text_completion"
    chunk_name = "text_completion"

    def __init__(self, service: Service, num_best: int | None, echo: bool) -> None:
        self._vocabulary = service.llm.core.vocabulary
        self._num_best = num_best
        self._echo = echo
        self._built: dict[int, LegacyLogprobs] = {}

    def opening(self, choice: Choice, made: events.Events) -> bytes:
        """The prompt, if it is echoed."""
        if not self._echo:
            return b""
        logprobs = self._logprobs_of_prompt(choice)
        return made.full_piece(choice.index, self.text_in_front(choice), logprobs, None, None, None)

    def text_in_front(self, choice: Choice) -> str:
        """The prompt, if it is echoed: as it was written, or what its ids stand for."""
        if not self._echo:
            return ""
        if choice.job.text is None:
            choice.job.text = self._vocabulary.decode(choice.job.token_ids, False)
        return choice.job.text

    def logprobs(self, choice: Choice) -> dict[str, Any] | None:
        """Of what is new; of the prompt as well the first time, if it is echoed."""
        if self._num_best is None:
            return None
        in_front = self._logprobs_of_prompt(choice) if self._echo and choice.index not in self._built else None
        new = self._builder(choice).piece(choice.logprobs)
        return new if in_front is None else {name: _joined(in_front[name], new[name]) for name in new}

    def _logprobs_of_prompt(self, choice: Choice) -> dict[str, Any] | None:
        if self._num_best is None:
            return None
        first = self._vocabulary.token_text(choice.job.token_ids[0])
        return self._builder(choice).piece(choice.prompt_logprobs, [first])

    def _builder(self, choice: Choice) -> LegacyLogprobs:
        return self._built.setdefault(choice.index, LegacyLogprobs(self._num_best or 0))

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Index and text."""
        return {"index": choice.index, "text": self.text_in_front(choice) + choice.text}


def _joined(left: Any, right: Any) -> Any:
    return None if left is None else left + right


async def create_completion(service: Service, body: dict[str, Any], request_id: str, ticket: Ticket) -> Response:
    """Answer a completion request. Raises: ApiError."""
    arrival = time.monotonic()
    request = read_request(CompletionRequest, body)
    service.require_model(request.model)
    only_prompt = request.max_tokens == 0 and bool(request.echo)
    params = sampling_params(request, service.defaults, _max_tokens(request, service, only_prompt))
    core_params = translated(params, request)
    jobs = await _read_prompts(service, request.prompt, request.add_special_tokens is not False)
    for index, job in enumerate(jobs):
        job.first_choice = index * params.n
        require_room(len(job.token_ids), request.max_tokens, service.max_model_len, "prompt", "max_tokens")
    ticket.hold(len(jobs), sum(len(job.token_ids) for job in jobs))
    options = request.stream_options
    plan = Plan(
        shape=CompletionShape(service, num_logprobs(request), bool(request.echo)),
        jobs=jobs,
        params=params,
        core_params=core_params,
        stream=bool(request.stream),
        include_usage=None if options is None else bool(options.include_usage),
        continuous_usage=options is not None and bool(options.continuous_usage_stats),
        drop_generated=only_prompt,
        answer_id=f"cmpl-{uuid.uuid4().hex}",
        request_id=request_id,
        renamed=renamed(request),
        arrival=arrival,
    )
    return Generation(service, plan, ticket)


def _max_tokens(request: CompletionRequest, service: Service, only_prompt: bool) -> int | None:
    if only_prompt:
        return 1
    if "max_tokens" not in request.model_fields_set:
        recommended: int | None = service.defaults.get("max_tokens", request.max_tokens)
        return recommended
    return request.max_tokens


async def _read_prompts(service: Service, value: Any, add_special_tokens: bool) -> list[Job]:
    """A text, token ids, or a list of one of them.

    Raises: ApiError 400 for anything else, and for ids that the vocabulary does not have.
    """
    if isinstance(value, str):
        return await _encoded(service, [value], add_special_tokens)
    if not isinstance(value, list) or not value:
        raise bad_request("prompt must be a text, a list of texts, token ids, or a list of lists of them.", "prompt")
    if isinstance(value[0], str):
        for index, text in enumerate(value):
            if not isinstance(text, str):
                raise bad_request(f"prompt[{index}] must be a text like the first one.", "prompt")
        return await _encoded(service, value, add_special_tokens)
    lists = value if isinstance(value[0], list) else [value]
    return [Job(0, _token_ids(service, ids)) for ids in lists]


async def _encoded(service: Service, texts: list[str], add_special_tokens: bool) -> list[Job]:
    ids = await service.encode(texts, add_special_tokens, "prompt")
    return [Job(0, token_ids, text) for token_ids, text in zip(ids, texts, strict=True)]


def _token_ids(service: Service, value: Any) -> list[int]:
    try:
        ids = checks.as_token_ids("prompt", value)
    except ValueError as error:
        raise bad_request(str(error)[:300], "prompt") from None
    size = service.llm.core.description.model.vocab_size
    if ids and max(ids) >= size:
        raise bad_request(f"prompt has the token id {max(ids)}, but the vocabulary has {size} tokens.", "prompt")
    return ids
