"""One HTTP request on its way through the engine: its prompts, its choices, and the answer that is sent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import Response

from quire import engine_log
from quire.async_streams import AsyncEngineDeadError
from quire.outputs import finish_reason_name
from quire.sampling import SamplingParams
from quire.server import events
from quire.server.admission import Ticket
from quire.server.errors import ApiError, from_value_error
from quire.server.gate import send_error
from quire.server.logprobs import Candidates
from quire.server.parameters import NAMES
from quire.server.reading import Receive, Scope, Send
from quire.server.service import Service

if TYPE_CHECKING:
    from quire import _core

logger = logging.getLogger("quire.server")


@dataclass
class Job:
    """One prompt in the engine."""

    first_choice: int
    token_ids: list[int]
    text: str | None = None
    """As the client wrote it; None for token ids."""
    num_generated: int = 0
    num_cached: int = 0
    begun: bool = False
    finished: bool = False
    first_token: float | None = None


@dataclass
class Choice:
    """One completion of one prompt, and what came of it since the client was last told."""

    index: int
    job: Job
    text: str = ""
    logprobs: list[Candidates] = field(default_factory=list)
    prompt_logprobs: list[Candidates] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    num_tokens: int = 0
    last_token: float | None = None


class Shape(Protocol):
    """What tells completions and chat apart in their answers."""

    chat: bool
    object_name: str
    chunk_name: str

    def opening(self, choice: Choice, made: events.Events) -> bytes:
        """What a stream says of a choice before anything of it is generated."""

    def text_in_front(self, choice: Choice) -> str:
        """What stands before the generated text: a prompt that is echoed."""

    def logprobs(self, choice: Choice) -> dict[str, Any] | None:
        """Of what is new of a choice, in the shape of this kind of answer."""

    def whole(self, choice: Choice) -> dict[str, Any]:
        """The choice as it stands in an answer that is not streamed, without its log-probabilities and reasons."""


@dataclass
class Plan:
    """What is to be done for one HTTP request."""

    shape: Shape
    jobs: list[Job]
    params: SamplingParams
    core_params: _core.SamplingParams
    stream: bool
    include_usage: bool | None
    """None: as vLLM 0.4.0, with the last event of each choice."""
    continuous_usage: bool
    drop_generated: bool
    """Only the prompt is wanted; the one token that the engine makes at least is dropped."""
    answer_id: str
    request_id: str
    renamed: dict[str, str]
    arrival: float


class Generation(Response):
    """Sends the answer to one request; a client that leaves ends it within a step of the engine."""

    def __init__(self, service: Service, plan: Plan, ticket: Ticket) -> None:
        from quire import _core

        super().__init__()
        self._service = service
        self._plan = plan
        self._ticket = ticket
        self._submission = service.llm.streams.open()
        self._jobs: dict[int, Job] = {}
        self._choices: dict[int, Choice] = {}
        self._not_ended = _core.FinishReason.NONE
        head = {
            "id": plan.answer_id,
            "object": plan.shape.chunk_name if plan.stream else plan.shape.object_name,
            "created": int(time.time()),
            "model": service.names[0],
        }
        self._head = head
        with_usage = bool(plan.include_usage) and not plan.continuous_usage
        self._events = events.Events(head, plan.shape.chat, with_usage)
        self._end_without_finish = "abort"
        self._submit()
        self._unopened = self._in_order()

    def _submit(self) -> None:
        """Raises: ApiError 400 if the engine refuses one of the requests; none of them then runs."""
        from quire import _core

        plan = self._plan
        # Without a stream the engine keeps everything until the end, and wakes nobody.
        kind = _core.OutputKind.DELTA if plan.stream else _core.OutputKind.FINAL_ONLY
        try:
            for job in plan.jobs:
                self._jobs[self._submission.submit(job.token_ids, plan.core_params, kind)] = job
                for offset in range(plan.params.n):
                    index = job.first_choice + offset
                    self._choices[index] = Choice(index, job)
        except AsyncEngineDeadError as error:
            self._submission.cancel()
            raise ApiError(500, f"The engine has failed: {error}") from None
        except ValueError as error:
            self._submission.cancel()
            raise from_value_error(error, ("prompt_token_ids", *NAMES), plan.renamed) from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._watch(receive))
        try:
            # A task of its own: what wakes the current one for each piece goes through twenty callers.
            await asyncio.create_task(self._answer(send))
        finally:
            watch.cancel()
            self._submission.cancel()
            self._ticket.release()
            self._tell()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._submission.cancel()

    async def _answer(self, send: Send) -> None:
        patient = self._service.readers.sender(send)
        await (self._stream(patient) if self._plan.stream else self._whole(patient))

    async def _whole(self, send: Send) -> None:
        try:
            while outputs := await self._submission.take():
                self._absorb(outputs)
        except ApiError as error:
            self._end_without_finish = "error"
            await send_error(send, error)
            return
        if not all(job.finished for job in self._plan.jobs):  # the client is gone
            return
        content = {
            **self._head,
            "choices": [self._whole_choice(one) for one in self._in_order()],
            "usage": self.usage(),
        }
        body = events.compact(content).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _in_order(self) -> list[Choice]:
        return [choice for _, choice in sorted(self._choices.items())]

    def _whole_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            **self._plan.shape.whole(choice),
            "logprobs": self._plan.shape.logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    async def _stream(self, send: Send) -> None:
        started = False
        try:
            while outputs := await self._submission.take():
                changed = self._absorb(outputs)
                if not started:
                    started = True
                    await send({"type": "http.response.start", "status": 200, "headers": events.HEADERS})
                if chunk := self._openings() + b"".join(map(self._event_of, changed)):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            last = self._events.last_usage(self.usage()) if self._plan.include_usage else b""
        except ApiError as error:
            self._end_without_finish = "error"
            if not started:
                await send_error(send, error)
                return
            last = b"data: " + error.body() + b"\n\n"
        if started:
            await send({"type": "http.response.body", "body": last + events.DONE})

    def _openings(self) -> bytes:
        """What is said first of choices whose prompt has been computed since the last look."""
        if not self._unopened:
            return b""
        begun = [choice for choice in self._unopened if choice.job.begun]
        self._unopened = [choice for choice in self._unopened if not choice.job.begun]
        return b"".join(self._plan.shape.opening(choice, self._events) for choice in begun)

    def _absorb(self, outputs: Sequence[_core.Output]) -> Sequence[Choice]:
        """Add what came to the choices, and return those that have something new.

        Raises: ApiError 500 if the engine ended one of them with an error.
        """
        now = time.monotonic()
        changed: dict[int, Choice] = {}
        for output in outputs:
            job = self._jobs[output.request_id]
            job.begun = True
            if output.error:
                raise ApiError(500, f"The engine could not go on with this request: {output.error}")
            if self._plan.params.prompt_logprobs is not None and output.prompt_logprobs:
                self._keep_prompt_logprobs(job, output.prompt_logprobs)
            for sequence in output.sequences:
                choice = self._choices[job.first_choice + sequence.index]
                self._add(choice, sequence, now)
                changed[choice.index] = choice
            if output.finished:
                self._finish(job, output, now)
        # The usual case needs no sorting.
        return list(changed.values()) if len(changed) < 2 else [one for _, one in sorted(changed.items())]

    def _keep_prompt_logprobs(self, job: Job, positions: list[Candidates]) -> None:
        for offset in range(self._plan.params.n):
            self._choices[job.first_choice + offset].prompt_logprobs = positions[1:]

    def _add(self, choice: Choice, sequence: _core.SequenceOutput, now: float) -> None:
        plan = self._plan
        num_new = len(sequence.token_ids)
        if sequence.finish_reason is not self._not_ended:
            choice.finish_reason = finish_reason_name(sequence.finish_reason)
            choice.stop_reason = sequence.stop_reason
        if plan.drop_generated:
            choice.finish_reason, choice.stop_reason = "length", None
            return
        choice.text += sequence.text
        if plan.params.logprobs is not None:
            choice.logprobs += sequence.logprobs
        choice.num_tokens += num_new
        choice.job.num_generated += num_new
        if plan.stream and num_new:
            self._measure(choice, num_new, now)

    def _measure(self, choice: Choice, num_new: int, now: float) -> None:
        metrics = self._service.metrics
        if choice.job.first_token is None:
            choice.job.first_token = now
            metrics.first_token(now - self._plan.arrival)
        if choice.last_token is not None:
            metrics.tokens(num_new, (now - choice.last_token) / num_new)
        choice.last_token = now

    def _finish(self, job: Job, output: _core.Output, now: float) -> None:
        job.finished = True
        job.num_cached = output.num_cached_tokens
        metrics, times = self._service.metrics, output.metrics
        first_token = times.first_token_time
        since_arrival = None if first_token is None else first_token - times.arrival_time
        longest = max((self._choices[job.first_choice + i].num_tokens for i in range(self._plan.params.n)), default=0)
        if not self._plan.stream and first_token is not None and since_arrival is not None:
            metrics.first_token(since_arrival)
            if longest > 1 and times.last_token_time is not None:
                metrics.tokens(longest - 1, (times.last_token_time - first_token) / (longest - 1))
        scheduled = times.first_scheduled_time
        metrics.finished(
            prompt_tokens=len(job.token_ids),
            generated_tokens=job.num_generated,
            e2e_seconds=now - self._plan.arrival,
            queue_seconds=0.0 if scheduled is None else scheduled - times.arrival_time,
            finish_reason=self._choices[job.first_choice].finish_reason or "stop",
            params_n=self._plan.params.n,
            max_tokens=self._plan.params.max_tokens,
            first_token_seconds=since_arrival,
            longest=longest,
        )

    def _event_of(self, choice: Choice) -> bytes:
        """What the client is told of a choice that has something new; empty if it is nothing that shows."""
        plan = self._plan
        text, choice.text = choice.text, ""
        if choice.finish_reason is None and plan.params.logprobs is None and not plan.continuous_usage:
            return self._events.piece(choice.index, text) if text else b""
        usage = None
        if plan.continuous_usage or (choice.finish_reason is not None and plan.include_usage is None):
            usage = self._usage_of(choice)
        logprobs = plan.shape.logprobs(choice) if choice.logprobs else None
        choice.logprobs = []
        return self._events.full_piece(choice.index, text, logprobs, choice.finish_reason, choice.stop_reason, usage)

    def usage(self) -> dict[str, Any]:
        """Of the whole request."""
        jobs = self._plan.jobs
        cached = sum(job.num_cached for job in jobs)
        return _usage(sum(len(job.token_ids) for job in jobs), sum(job.num_generated for job in jobs), cached)

    def _usage_of(self, choice: Choice) -> dict[str, Any]:
        return _usage(len(choice.job.token_ids), choice.num_tokens, choice.job.num_cached)

    def _tell(self) -> None:
        """Record those that did not end by themselves, and log one line without anything of the content."""
        plan = self._plan
        now = time.monotonic()
        unfinished = [job for job in plan.jobs if not job.finished]
        for job in unfinished:
            self._service.metrics.finished(
                prompt_tokens=len(job.token_ids),
                generated_tokens=job.num_generated,
                e2e_seconds=now - plan.arrival,
                queue_seconds=0.0,
                finish_reason=self._end_without_finish,
                params_n=plan.params.n,
                max_tokens=plan.params.max_tokens,
            )
        if not self._service.arguments.disable_log_requests:
            usage = self.usage()
            logger.info(
                "%s: %s, %d prompt tokens, %d generated, %.3f s%s",
                plan.request_id,
                plan.answer_id,
                usage["prompt_tokens"],
                usage["completion_tokens"],
                now - plan.arrival,
                ", not finished" if unfinished else "",
            )
        engine_log.forward()


def _usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
