"""AsyncLLM: the engine of LLM for programs that run an event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from quire import engine_log
from quire.arguments import EngineArgs
from quire.async_streams import AsyncEngineDeadError, AsyncSubmission, EngineStreams
from quire.engine_view import EngineView, ModelConfig
from quire.llm import LLM
from quire.outputs import CompletionOutput, RequestOutput, RequestRecord, clock_offset
from quire.prompts import Prompt, encode_prompts, read_prompts
from quire.sampling import SamplingParams, core_sampling

if TYPE_CHECKING:
    from quire import _core

logger = logging.getLogger("quire")

# A text of so many characters is encoded in well under a millisecond; a longer one is not left to the event loop.
_LONGEST_INLINE_TEXT = 4096

OUTPUT_KINDS = ("cumulative", "delta")


class AsyncLLM:
    """A model ready to generate text for any number of tasks of an event loop at a time.

        async with AsyncLLM() as llm:
            async for output in llm.stream("Once upon a time"):
                print(output.outputs[0].text, end="")

    Its arguments, and what it raises, are those of LLM. The methods are those of vLLM's AsyncLLMEngine, by which name
    it is offered too. Leaving an iteration (break with aclose(), cancelling its task) ends the request within one step
    of the engine and frees its KV blocks.

    The engine computes on threads of its own and Python looks at it once per step, so that the event loop has time for
    other work. Thread safety: all methods belong to the thread of one event loop.
    """

    def __init__(self, model: str | None = None, **kwargs: Any) -> None:
        self._llm: LLM | None = LLM(model, **kwargs)
        self._arguments = self._llm.arguments
        self.llm_engine: EngineView = self._llm.llm_engine
        self.core: _core.Engine = self.llm_engine.core
        self.streams = EngineStreams(self.core)
        self._named: dict[str, AsyncSubmission] = {}
        self._numbers = itertools.count()

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, start_engine_loop: bool = True, **_: Any) -> AsyncLLM:
        """Build one from parsed flags. `start_engine_loop` is accepted, the engine always runs."""
        return cls(**{entry.name: getattr(engine_args, entry.name) for entry in fields(EngineArgs)})

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, None with skip_tokenizer_init."""
        return self._running().get_tokenizer()

    def _running(self) -> LLM:
        if self._llm is None:
            raise AsyncEngineDeadError("This AsyncLLM is closed.")
        return self._llm

    def default_sampling(self) -> dict[str, Any]:
        """The sampling parameters that generation_config recommends, by name. Raises: as LLM's method for defaults."""
        return self._arguments.default_sampling()

    async def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Long ones are encoded on another thread.

        Raises: ValueError for text that the tokenizer refuses, or if there is none.
        """
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise ValueError("text needs a tokenizer, but the model was opened with skip_tokenizer_init=True.")
        if len(text) <= _LONGEST_INLINE_TEXT:
            return list(tokenizer.encode(text, add_special_tokens))
        return list(await asyncio.to_thread(tokenizer.encode, text, add_special_tokens))

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        prompt_token_ids: list[int] | None = None,
        lora_request: Any = None,
        multi_modal_data: Any = None,
        output_kind: str = "cumulative",
    ) -> AsyncGenerator[RequestOutput, None]:
        """Complete one prompt and iterate over its outputs.

        Args:
            prompt: as one of LLM.generate's; None if prompt_token_ids are given.
            request_id: a name to abort() it by; by default a number.
            output_kind: "cumulative", each output holds all text so far and only the newest one of those that are
                ready comes; or "delta", each holds what is new, and all come.

        Raises, at the first step of the iteration: ValueError as LLM.generate, KeyError if a request of that name runs,
        AsyncEngineDeadError.
        """
        if output_kind not in OUTPUT_KINDS:
            raise ValueError(f"output_kind must be one of {OUTPUT_KINDS}, got {output_kind!r}.")
        _refuse_extras(lora_request, multi_modal_data)
        llm = self._running()
        params = llm.get_default_sampling_params() if sampling_params is None else sampling_params
        core_params = core_sampling(params)
        item = await self._prompt(prompt, prompt_token_ids)
        name = f"request-{next(self._numbers)}" if request_id is None else request_id
        if name in self._named:
            raise KeyError(f"Request {name} already exists.")
        self._named[name] = submission = self.streams.open()
        try:
            record = self._submit(submission, item, params, core_params)
            joined = Joined(record) if output_kind == "cumulative" else None
            while outputs := await submission.take():
                if joined is None:
                    for output in outputs:
                        yield _named(record.to_output(output), name)
                else:
                    yield _named(joined.add(outputs), name)
        finally:
            submission.cancel()
            del self._named[name]
            engine_log.forward()

    async def stream(
        self, prompt: Any, sampling_params: SamplingParams | None = None
    ) -> AsyncGenerator[RequestOutput, None]:
        """Complete one prompt and iterate over what is new each time, as LLM.stream does."""
        outputs = self.generate(prompt, sampling_params, output_kind="delta")
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()

    async def _prompt(self, prompt: Any, prompt_token_ids: Any) -> Prompt:
        items = read_prompts(prompt, None if prompt_token_ids is None else [prompt_token_ids])
        if len(items) != 1:
            raise ValueError(f"generate() of AsyncLLM takes one prompt, got {len(items)}; start one task for each.")
        if items[0].token_ids is None:
            items[0].token_ids = await self.encode(items[0].text or "")
        encode_prompts(items, None)
        return items[0]

    def _submit(
        self, submission: AsyncSubmission, prompt: Prompt, params: SamplingParams, core_params: _core.SamplingParams
    ) -> RequestRecord:
        from quire import _core

        token_ids = prompt.token_ids or []
        self._require_alive()
        request_id = submission.submit(token_ids, core_params, _core.OutputKind.DELTA)
        return RequestRecord(
            request_id=request_id,
            prompt=prompt.text,
            prompt_token_ids=token_ids,
            wants_logprobs=params.logprobs is not None,
            wants_prompt_logprobs=params.prompt_logprobs is not None,
            has_text=self.tokenizer is not None,
            clock_offset=clock_offset(_core.Engine.now()),
        )

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests by name; iterating over them ends. Unknown names are ignored."""
        for name in [request_id] if isinstance(request_id, str) else list(request_id):
            if name in self._named:
                self._named[name].cancel()

    async def get_model_config(self) -> ModelConfig:
        """The model as it runs."""
        return self.llm_engine.model_config

    async def get_tokenizer(self) -> Any:
        """The tokenizer, None with skip_tokenizer_init."""
        return self.tokenizer

    def _require_alive(self) -> None:
        self._running()
        if self.streams.failure is not None:
            raise AsyncEngineDeadError(self.streams.failure)

    async def check_health(self) -> None:
        """Raises: AsyncEngineDeadError if the engine has failed or is closed."""
        self._require_alive()

    async def do_log_stats(self) -> None:
        """Log one line of what runs and waits."""
        stats = self.llm_engine.stats()
        logger.info(
            "Running: %d reqs, Waiting: %d reqs, KV blocks in use: %d of %d",
            stats.num_running,
            stats.num_waiting,
            stats.num_blocks - stats.num_free_blocks,
            stats.num_blocks,
        )

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return self._llm is not None and not self.errored

    @property
    def is_stopped(self) -> bool:
        """Whether it is closed or has failed."""
        return not self.is_running

    @property
    def errored(self) -> bool:
        """Whether the engine has failed."""
        return self.streams.failure is not None

    def close(self) -> None:
        """End all requests and give all memory back. A second call does nothing."""
        if self._llm is not None:
            for submission in self.streams.submissions():
                submission.fail(AsyncEngineDeadError("This AsyncLLM was closed."))
            llm, self._llm = self._llm, None
            llm.close()

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


AsyncLLMEngine = AsyncLLM


class Joined:
    """Puts the pieces of one request together again."""

    def __init__(self, record: RequestRecord) -> None:
        self._record = record
        self._completions: dict[int, CompletionOutput] = {}
        self._prompt_logprobs: Any = None

    def add(self, outputs: list[_core.Output]) -> RequestOutput:
        """All so far, as of the last of these outputs."""
        for core in outputs:
            latest = self._record.to_output(core)
            self._prompt_logprobs = self._prompt_logprobs or latest.prompt_logprobs
            for piece in latest.outputs:
                self._join(piece)
        latest.prompt_logprobs = self._prompt_logprobs
        # What was given out before must not change any more.
        latest.outputs = [_copy(completion) for _, completion in sorted(self._completions.items())]
        return latest

    def _join(self, piece: CompletionOutput) -> None:
        whole = self._completions.setdefault(piece.index, piece)
        if whole is piece:
            return
        whole.text += piece.text
        whole.token_ids += piece.token_ids
        if whole.logprobs is not None:
            whole.logprobs += piece.logprobs or []
        whole.cumulative_logprob = piece.cumulative_logprob
        whole.finish_reason = piece.finish_reason
        whole.stop_reason = piece.stop_reason


def _copy(completion: CompletionOutput) -> CompletionOutput:
    logprobs = completion.logprobs
    return replace(
        completion, token_ids=list(completion.token_ids), logprobs=None if logprobs is None else list(logprobs)
    )


def _named(output: RequestOutput, name: str) -> RequestOutput:
    output.request_id = name
    return output


def _refuse_extras(lora_request: Any, multi_modal_data: Any) -> None:
    if lora_request is not None:
        raise NotImplementedError("lora_request is not offered; merge the adapter into the weights.")
    if multi_modal_data is not None:
        raise NotImplementedError("multi_modal_data is not offered; use text prompts.")
