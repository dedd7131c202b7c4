"""Requests of one event loop on their way through the engine.

The engine fills one queue for all of them, whose file descriptor becomes readable once per step; the event loop then
takes everything and hands it to those who wait. So a step costs one wake-up, however many requests run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire import _core


class AsyncEngineDeadError(RuntimeError):
    """The engine has failed, or has been closed."""


LONGEST_PAUSE_SECONDS = 0.04
"""A longer one would be seen by readers."""


class EngineStreams:
    """Hands the outputs of an engine to the submissions that they belong to.

    Args:
        pause: seconds to wait, for each request that had an output, before looking again; LONGEST_PAUSE_SECONDS at
            most. Where the engine computes on the same cores, to hand out every token of many streams by itself costs
            a fifth of its speed. After a pause there are more tokens of each stream, which are handed out together;
            with few streams the pauses are shorter than a step.

    Thread safety: none; everything here belongs to the thread of the event loop that runs it. While requests run it is
    bound to that loop, and afterwards free for another one.
    """

    def __init__(self, core: _core.Engine, pause: float = 0.0) -> None:
        from quire import _core

        self.core = core
        self._pause = pause
        self._listen_later: asyncio.TimerHandle | None = None
        self._queue = _core.OutputQueue.create()
        self._open: dict[int, AsyncSubmission] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> AsyncSubmission:
        """A new submission, without requests yet."""
        return AsyncSubmission(self)

    @property
    def failure(self) -> str | None:
        """Why the engine takes no requests any more, if it has failed."""
        return self.core.failure

    def __len__(self) -> int:
        """Number of requests that wait or run."""
        return len(self._open)

    def submissions(self) -> list[AsyncSubmission]:
        """Those with requests that wait or run."""
        return list(dict.fromkeys(self._open.values()))

    def submit(
        self,
        owner: AsyncSubmission,
        token_ids: Sequence[int],
        params: _core.SamplingParams,
        output_kind: _core.OutputKind,
    ) -> int:
        """Queue a request of `owner`.

        Raises: ValueError for parameters out of range, AsyncEngineDeadError if the engine has failed, RuntimeError
        while another event loop has requests.
        """
        loop = asyncio.get_running_loop()
        if self._open and self._loop is not loop:
            raise RuntimeError("Requests of another event loop are running; use one AsyncLLM per event loop.")
        try:
            request_id = self.core.submit(token_ids, params, output_kind, self._queue)
        except RuntimeError as error:
            raise AsyncEngineDeadError(str(error)) from None
        if not self._open:
            self._loop = loop
            self._listen()
        self._open[request_id] = owner
        return request_id

    def forget(self, request_id: int) -> None:
        """Drop what still comes for a request."""
        if self._open.pop(request_id, None) is not None and not self._open:
            self._stop_listening()
            self._loop = None

    def _listen(self) -> None:
        self._listen_later = None
        if self._loop is not None:
            self._loop.add_reader(self._queue.fileno(), self._distribute)

    def _stop_listening(self) -> None:
        if self._listen_later is not None:
            self._listen_later.cancel()
            self._listen_later = None
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._queue.fileno())

    def _distribute(self) -> None:
        outputs = self._queue.take(0.0)
        for output in outputs:
            owner = self._open.get(output.request_id)
            if owner is None:  # given up meanwhile
                continue
            if output.finished:
                self.forget(output.request_id)
            owner.receive(output)
        if self._pause and self._open and self._loop is not None:
            self._stop_listening()
            num_requests = len({output.request_id for output in outputs})
            seconds = min(num_requests * self._pause, LONGEST_PAUSE_SECONDS)
            self._listen_later = self._loop.call_later(seconds, self._listen)


class AsyncSubmission:
    """Requests that are waited for together. Nothing of them is left running once it is cancelled."""

    def __init__(self, streams: EngineStreams) -> None:
        self._streams = streams
        self._running: set[int] = set()
        self._outputs: list[_core.Output] = []
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    def submit(self, token_ids: Sequence[int], params: _core.SamplingParams, output_kind: _core.OutputKind) -> int:
        """Queue one request and return its number. Raises: as EngineStreams.submit."""
        request_id = self._streams.submit(self, token_ids, params, output_kind)
        self._running.add(request_id)
        return request_id

    async def take(self) -> list[_core.Output]:
        """Wait for outputs and take all there are, oldest first; empty when all requests have ended.

        A taker that comes late finds several outputs of one request. Raises: what fail() was given.
        """
        while not self._outputs:
            if self._failure is not None:
                raise self._failure
            if not self._running:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        outputs, self._outputs = self._outputs, []
        return outputs

    def receive(self, output: _core.Output) -> None:
        """Called for every output, on the event loop."""
        self._outputs.append(output)
        if output.finished:
            self._running.discard(output.request_id)
        self._wake()

    def cancel(self) -> None:
        """End what still runs, within one step of the engine; outputs that were not taken are dropped."""
        for request_id in self._running:
            self._streams.core.cancel(request_id)
            self._streams.forget(request_id)
        self._running.clear()
        self._outputs.clear()
        self._wake()

    def fail(self, failure: Exception) -> None:
        """End what still runs and have take() raise."""
        self._failure = failure
        self.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
