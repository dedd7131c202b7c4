"""Requests on their way through the engine: submitted together, waited for, cancelled together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quire import engine_log
from quire.outputs import RequestOutput, RequestRecord, clock_offset
from quire.prompts import Prompt
from quire.sampling import SamplingParams, core_sampling

if TYPE_CHECKING:
    from quire import _core

logger = logging.getLogger("quire")


@dataclass
class EngineHandle:
    """The engine, and whether its outputs carry text."""

    core: _core.Engine
    has_text: bool


class Submission:
    """Requests that share an output queue. Nothing of them is left running once it is closed."""

    def __init__(self, engine: EngineHandle, output_kind: _core.OutputKind) -> None:
        from quire import _core

        self._engine = engine
        self._output_kind = output_kind
        self._queue = _core.OutputQueue.create()
        self._clock_offset = clock_offset(_core.Engine.now())
        self._records: dict[int, tuple[int, RequestRecord]] = {}

    def submit(self, index: int, prompt: Prompt, params: SamplingParams, core_params: _core.SamplingParams) -> None:
        """Queue one request; `index` is its place in the call and in error messages."""
        token_ids = prompt.token_ids or []
        try:
            request_id = self._engine.core.submit(token_ids, core_params, self._output_kind, self._queue)
        except ValueError as error:
            raise ValueError(f"prompts[{index}]: {error}") from None
        self._records[request_id] = (
            index,
            RequestRecord(
                request_id=request_id,
                prompt=prompt.text,
                prompt_token_ids=token_ids,
                wants_logprobs=params.logprobs is not None,
                wants_prompt_logprobs=params.prompt_logprobs is not None,
                has_text=self._engine.has_text,
                clock_offset=self._clock_offset,
            ),
        )

    def outputs(self) -> Iterator[tuple[int, RequestOutput]]:
        """Wait for outputs, as they come, until all requests are finished."""
        while self._records:
            for core in self._queue.take():
                if core.request_id not in self._records:  # cancelled meanwhile
                    continue
                index, record = self._records[core.request_id]
                if core.finished:
                    del self._records[core.request_id]
                yield index, record.to_output(core)

    def cancel(self) -> None:
        """End what still runs, within one step of the engine."""
        for request_id in list(self._records):
            self._engine.core.cancel(request_id)
        self._records.clear()


class Progress:
    """The bar "Processed prompts" with the speed of input and output behind it."""

    def __init__(self, total: int, bar_type: Callable[..., Any] | None) -> None:
        if bar_type is None:
            from tqdm import tqdm

            bar_type = tqdm
        self._input_tokens = 0
        self._output_tokens = 0
        self._start = time.monotonic()
        self._bar = bar_type(total=total, desc="Processed prompts", dynamic_ncols=True, postfix=self._speed())

    def _speed(self) -> str:
        per_second = 1.0 / max(time.monotonic() - self._start, 1e-6)
        return (
            f"est. speed input: {self._input_tokens * per_second:.2f} toks/s, "
            f"output: {self._output_tokens * per_second:.2f} toks/s"
        )

    def add(self, output: RequestOutput) -> None:
        """Count one finished request."""
        self._input_tokens += len(output.prompt_token_ids)
        self._output_tokens += sum(len(completion.token_ids) for completion in output.outputs)
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update(1)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def run_batch(
    engine: EngineHandle,
    prompts: list[Prompt],
    sampling: list[SamplingParams],
    use_tqdm: bool | Callable[..., Any],
) -> list[RequestOutput]:
    """Run all prompts and return their outputs in order. Whatever ends the call early cancels its requests."""
    from quire import _core

    # All parameters are checked before anything runs; those that many prompts share are so once.
    distinct = {id(params): params for params in sampling}
    translated = {key: core_sampling(params) for key, params in distinct.items()}
    results: list[RequestOutput | None] = [None] * len(prompts)
    submission = Submission(engine, _core.OutputKind.FINAL_ONLY)
    progress = None
    if use_tqdm:
        progress = Progress(len(prompts), use_tqdm if callable(use_tqdm) else None)
    try:
        for index, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
            submission.submit(index, prompt, params, translated[id(params)])
        for index, output in submission.outputs():
            results[index] = output
            if output.error:
                logger.warning("prompts[%d] ended with an error: %s", index, output.error)
            if progress:
                progress.add(output)
    finally:
        submission.cancel()
        if progress:
            progress.close()
        engine_log.forward()
    return [result for result in results if result is not None]


class RequestStream(Iterator[RequestOutput]):
    """The outputs of one request as they come.

    Each holds what is new since the one before: `outputs` lists the completions that grew, with the new `text`,
    `token_ids` and `logprobs`; joining the texts gives what `LLM.generate` returns. The last one has `finished` set.
    `prompt_logprobs` come with the first one.

    Closing it, leaving its `with` block or dropping it cancels the request.
    """

    def __init__(self, engine: EngineHandle, prompt: Prompt, params: SamplingParams) -> None:
        from quire import _core

        self._submission = Submission(engine, _core.OutputKind.DELTA)
        self._submission.submit(0, prompt, params, core_sampling(params))
        self._outputs = self._submission.outputs()

    def __next__(self) -> RequestOutput:
        try:
            return next(self._outputs)[1]
        except KeyboardInterrupt:
            self.close()
            raise

    def close(self) -> None:
        """Cancel the request if it still runs."""
        self._submission.cancel()

    def __enter__(self) -> RequestStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A constructor that raised leaves no submission.
        if hasattr(self, "_outputs"):
            self.close()
