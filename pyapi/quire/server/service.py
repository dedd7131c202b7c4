"""What all handlers share: the engine, its limits, its metrics, and the state of the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quire.async_llm import AsyncLLM
from quire.async_streams import EngineStreams
from quire.server.admission import Admission
from quire.server.errors import ApiError, bad_request, shortened
from quire.server.metrics import Metrics
from quire.server.slow_readers import SlowReaders
from quire.server.watchdog import Watchdog

if TYPE_CHECKING:
    from quire.server_arguments import ServerArgs

logger = logging.getLogger("quire.server")

QUEUED_KV_CACHES = 16
"""How many times what the KV cache holds may wait or run, in tokens of prompts, where no flag says."""

LOG_SECONDS = 5.0

FLUSH_SECONDS = 2
"""Once nothing is generated any more: for answers on their way to slow readers."""

PAUSE_SECONDS = 0.0006
"""Between looks at the engine's outputs, for each one, where it computes on the same cores: twenty times what the piece
of a stream costs."""

# Texts of so many characters in all are encoded at once; more are left to another thread.
_LONGEST_INLINE_TEXTS = 4096
# Texts are refused before they are encoded if even the longest tokens could not bring them below the context's length.
_LEAST_LONGEST_TOKEN = 16


class Service:
    """One model being served."""

    def __init__(self, arguments: ServerArgs, llm: AsyncLLM, chat_template: str | None) -> None:
        self.id = uuid.uuid4().hex
        self.start_time = time.time()
        self.arguments = arguments
        self.llm = llm
        if llm.core.config.device.startswith("cpu"):
            llm.streams = EngineStreams(llm.core, PAUSE_SECONDS)
        self.chat_template = chat_template
        self.names = arguments.model_names
        memory = llm.core.description.memory
        self.max_model_len = memory.max_model_len
        kv_tokens = memory.num_blocks * memory.block_size
        self.admission = Admission(
            arguments.max_queued_requests, arguments.max_queued_tokens or QUEUED_KV_CACHES * kv_tokens
        )
        self.metrics = Metrics(self.names[0], arguments.metrics_prefix, llm.core)
        self.watchdog = Watchdog(
            lambda: llm.core.stats().num_steps, lambda: len(llm.streams) > 0, arguments.step_watchdog
        )
        self.readers = SlowReaders(arguments.request_timeout)
        self.defaults = llm.default_sampling()
        vocabulary = llm.tokenizer.get_vocab()
        self._longest_token = max(_LEAST_LONGEST_TOKEN, max(map(len, vocabulary), default=0))
        self._draining = False

    # The state of the server.

    def require_healthy(self) -> None:
        """Raises: ApiError 500 if the engine has failed."""
        if self.llm.errored:
            raise ApiError(500, f"The engine has failed: {self.llm.streams.failure}")

    def require_ready(self) -> None:
        """Raises: ApiError 503 while draining, or if the engine makes no steps."""
        self.require_healthy()
        if self._draining:
            raise ApiError(503, "The server is shutting down.", retry_after=1)
        if self.watchdog.is_stuck():
            raise ApiError(503, self._stuck(), retry_after=1)

    def _stuck(self) -> str:
        return f"The engine has made no step for {self.arguments.step_watchdog:g} seconds (step_watchdog)."

    async def watch(self) -> None:
        """Until cancelled, look for an engine that is stuck and clients that do not read, and log the load."""
        limits = [seconds for seconds in (self.arguments.step_watchdog, self.arguments.request_timeout) if seconds]
        pause = min(1.0, *(seconds / 4 for seconds in limits)) if limits else 1.0
        last_line = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(pause)
            if self.watchdog.is_stuck():
                self.end_all(ApiError(503, self._stuck()))
            self.readers.end_slow_ones()
            now = asyncio.get_running_loop().time()
            if not self.arguments.disable_log_stats and now - last_line >= LOG_SECONDS:
                last_line = now
                if line := self.metrics.log_line():
                    logger.info("%s", line)

    def end_all(self, error: ApiError) -> None:
        """End all running requests with an error."""
        for submission in self.llm.streams.submissions():
            submission.fail(error)

    async def drain(self, seconds: float) -> None:
        """Let nobody in any more, and give those who are in so many seconds; then end what still runs."""
        self._draining = True
        self.admission.close()
        try:
            async with asyncio.timeout(seconds):
                await self.admission.wait_until_empty()
        except TimeoutError:
            number = self.admission.num_requests
            logger.warning("%d requests are ended after %g seconds (drain_timeout)", number, seconds)
            self.end_all(ApiError(503, "The server is shutting down; this answer is cut off."))
            # Not for ever: there may be clients that do not read.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.admission.wait_until_empty()

    # What requests say.

    def require_model(self, name: str | None) -> None:
        """Raises: ApiError 404 if the model is another one."""
        if name is not None and name not in self.names:
            raise ApiError(404, f"The model `{shortened(name)}` does not exist.", "model")

    async def encode(self, texts: Sequence[str], add_special_tokens: bool, param: str) -> list[list[int]]:
        """Token ids of texts. Raises: ApiError 400 naming `param`."""
        most = self.max_model_len * self._longest_token
        for text in texts:
            if len(text) > most:
                raise bad_request(
                    f"{param} has {len(text)} characters, more than this model's maximum context length of "
                    f"{self.max_model_len} tokens can hold.",
                    param,
                )
        encode = self.llm.tokenizer.encode_batch
        try:
            if sum(map(len, texts)) <= _LONGEST_INLINE_TEXTS:
                return list(encode(texts, add_special_tokens))
            return list(await asyncio.to_thread(encode, texts, add_special_tokens))
        except ValueError as error:
            message = str(error).replace("texts[0]", param) if len(texts) == 1 else str(error).replace("texts", param)
            raise bad_request(message, param) from None

    async def render_chat(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        """A conversation as the model's prompt. The template runs on another thread, with bounds on time and size.

        Raises: ApiError 400 if the template refuses it, or there is none.
        """

        def render() -> str:
            return str(
                self.llm.tokenizer.apply_chat_template(
                    messages, chat_template=self.chat_template, tokenize=False, **variables
                )
            )

        try:
            return await asyncio.to_thread(render)
        except ValueError as error:
            message = str(error)
            if "no chat template" in message:
                message = "The model has no chat template: start the server with --chat-template, or use completions."
            raise bad_request(message, "messages") from None
