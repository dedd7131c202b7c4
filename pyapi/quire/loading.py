"""The bar that is shown while weights are read."""

from __future__ import annotations

import sys
import time
from typing import Any

# Small models are read before anybody wonders.
_QUIET_SECONDS = 0.5


class LoadBar:
    """Called with the share of the weights that has been read; shows it on a terminal, once it takes a while."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bar: Any = None

    def __call__(self, share: float) -> None:
        if self._bar is None:
            if time.monotonic() - self._start < _QUIET_SECONDS or not sys.stderr.isatty():
                return
            self._bar = self._open()
        self._bar.update(share - self._bar.n)

    def _open(self) -> Any:
        from tqdm import tqdm

        shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        bar = tqdm(total=1.0, desc="Loading weights", bar_format=shape, dynamic_ncols=True)
        bar.start_t -= time.monotonic() - self._start
        return bar

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
