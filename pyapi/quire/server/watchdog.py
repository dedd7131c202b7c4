"""Tells whether the engine still makes steps while there is work."""

from __future__ import annotations

import time
from collections.abc import Callable


class Watchdog:
    """To be asked now and then.

    Args:
        num_steps: how many steps the engine has made.
        has_work: whether requests wait or run.
        timeout: seconds that a step may take; 0: any time.
    """

    def __init__(
        self,
        num_steps: Callable[[], int],
        has_work: Callable[[], bool],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps = num_steps
        self._has_work = has_work
        self._timeout = timeout
        self._clock = clock
        self._last_steps = num_steps()
        self._last_progress = clock()

    def is_stuck(self) -> bool:
        """Whether there is work, and no step has ended for longer than the timeout."""
        steps, now = self._num_steps(), self._clock()
        if steps != self._last_steps or not self._has_work():
            self._last_steps, self._last_progress = steps, now
        return 0 < self._timeout < now - self._last_progress
