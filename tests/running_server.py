"""A server of `quire serve` in a process of its own, for tests of those who talk with one."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running_server(*words: str, timeout: float = 60.0) -> Iterator[str]:
    """Its address, until the end of the block. Any free port unless the words name one."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "quire", "serve", *words, *([] if "--port" in words else ["--port", "0"])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            yield _address(process, log, timeout)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            finally:
                process.kill()


def _address(process: "subprocess.Popen[bytes]", log: object, timeout: float) -> str:
    """What the server says that it listens at."""
    end = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < end:
        with open(f"/proc/self/fd/{log.fileno()}") as file:  # type: ignore[attr-defined]
            found = re.search(r"listening at (https?://\S+)", file.read())
        if found:
            return found[1]
        time.sleep(0.05)
    with open(f"/proc/self/fd/{log.fileno()}") as file:  # type: ignore[attr-defined]
        raise AssertionError(f"the server did not start (exit status {process.poll()}):\n{file.read()}")
