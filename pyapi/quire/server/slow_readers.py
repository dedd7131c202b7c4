"""Clients that ask and do not read: what waits for them is not kept for good."""

from __future__ import annotations

import asyncio
import time

from quire.server.reading import ClientGone, Message, Send


class SlowReaders:
    """Bounds how long one piece of an answer may take to send. It looks now and then, so that a piece costs nothing.

    Args:
        timeout: seconds; 0: any time.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._since: dict[asyncio.Task[object], float] = {}
        self._given_up: set[asyncio.Task[object]] = set()

    def sender(self, send: Send) -> Send:
        """`send` for the current task, which raises ClientGone if the client takes too long."""
        task = asyncio.current_task()
        assert task is not None

        async def timed(message: Message) -> None:
            self._since[task] = time.monotonic()
            try:
                await send(message)
            except asyncio.CancelledError:
                if task not in self._given_up:
                    raise
                self._given_up.discard(task)
                task.uncancel()
                raise ClientGone from None
            finally:
                del self._since[task]

        return timed

    def end_slow_ones(self) -> None:
        """End the tasks that have been sending for too long."""
        if not self._timeout:
            return
        latest = time.monotonic() - self._timeout
        for task, since in list(self._since.items()):
            if since < latest and task not in self._given_up:
                self._given_up.add(task)
                task.cancel()
