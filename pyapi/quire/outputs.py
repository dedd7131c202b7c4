"""What a request gives back: vLLM's output classes, field for field, filled from the engine's."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire import _core


@dataclass(slots=True)
class Logprob:
    """One candidate's log-probability at one position."""

    logprob: float
    """Natural logarithm; -inf for a candidate that truncation removed."""
    rank: int | None = None
    """1 for the most likely token."""
    decoded_token: str | None = None
    """The token's own text; None without a tokenizer."""


PositionLogprobs = dict[int, Logprob]


@dataclass
class RequestMetrics:
    """When things happened, in seconds as `time.time()` counts them."""

    arrival_time: float
    last_token_time: float | None = None
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    time_in_queue: float | None = None
    """Seconds from arrival to the first step that worked on the request."""
    finished_time: float | None = None


@dataclass
class CompletionOutput:
    """One completion of a prompt."""

    index: int
    """0 .. n-1."""
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    """Sum of the chosen tokens' log-probabilities."""
    logprobs: list[PositionLogprobs] | None = None
    """One dict of token id to Logprob per token; None unless asked for."""
    finish_reason: str | None = None
    """"stop" (stop string, stop id, end of text), "length", "abort", "error", or None while it runs."""
    stop_reason: str | int | None = None
    """The stop string or stop id that ended the text; None for the end-of-text token."""
    lora_request: None = None

    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None


@dataclass
class RequestOutput:
    """What one prompt gave."""

    request_id: str
    prompt: str | None
    """None where token ids were given alone."""
    prompt_token_ids: list[int]
    prompt_logprobs: list[PositionLogprobs | None] | None
    """One per prompt token, the first is None; None unless asked for."""
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None
    lora_request: None = None
    error: str | None = None
    """One line where a completion has finish_reason "error"."""
    num_cached_tokens: int | None = None
    """Prompt tokens whose keys and values came from the prefix cache."""


def finish_reason_name(reason: _core.FinishReason) -> str | None:
    """The engine's reason by the name users know."""
    return None if reason.name == "NONE" else reason.name.lower()


@dataclass
class RequestRecord:
    """What is remembered of a submitted request, to make its outputs complete."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    wants_logprobs: bool
    wants_prompt_logprobs: bool
    has_text: bool
    # The engine's clock starts anywhere; users compare with time.time().
    clock_offset: float = field(default=0.0)

    def to_output(self, core: _core.Output) -> RequestOutput:
        """Translate what the engine sent."""
        prompt_logprobs: list[PositionLogprobs | None] | None = None
        if self.wants_prompt_logprobs and core.prompt_logprobs:
            prompt_logprobs = [self._position(candidates) or None for candidates in core.prompt_logprobs]
        return RequestOutput(
            request_id=str(self.request_id),
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            prompt_logprobs=prompt_logprobs,
            outputs=[self._completion(sequence) for sequence in sorted(core.sequences, key=lambda one: one.index)],
            finished=core.finished,
            metrics=self._metrics(core.metrics),
            error=core.error or None,
            num_cached_tokens=core.num_cached_tokens,
        )

    def _completion(self, sequence: _core.SequenceOutput) -> CompletionOutput:
        logprobs = [self._position(candidates) for candidates in sequence.logprobs] if self.wants_logprobs else None
        return CompletionOutput(
            index=sequence.index,
            text=sequence.text,
            token_ids=sequence.token_ids,
            cumulative_logprob=sequence.cumulative_logprob,
            logprobs=logprobs,
            finish_reason=finish_reason_name(sequence.finish_reason),
            stop_reason=sequence.stop_reason,
        )

    def _position(self, candidates: list[tuple[int, float, int, str]]) -> PositionLogprobs:
        return {
            token_id: Logprob(logprob, rank, text if self.has_text else None)
            for token_id, logprob, rank, text in candidates
        }

    def _metrics(self, core: _core.RequestMetrics) -> RequestMetrics:
        def wall(seconds: float | None) -> Any:
            return None if seconds is None else seconds + self.clock_offset

        scheduled = core.first_scheduled_time
        return RequestMetrics(
            arrival_time=wall(core.arrival_time),
            last_token_time=wall(core.last_token_time),
            first_scheduled_time=wall(scheduled),
            first_token_time=wall(core.first_token_time),
            time_in_queue=None if scheduled is None else scheduled - core.arrival_time,
            finished_time=wall(core.finished_time),
        )


def clock_offset(engine_now: float) -> float:
    """What to add to the engine's clock to get `time.time()`."""
    return time.time() - engine_now
