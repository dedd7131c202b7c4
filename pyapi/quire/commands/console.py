"""Text to and from the terminal: pieces as they come, prompts from wherever they are, numbers people can read."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from quire.cli import UsageError


def prepare_output() -> None:
    """Make sure that no character of a model's text can fail to be written."""
    for stream in (sys.stdout, sys.stderr):
        # Replaced streams, as in notebooks, may lack it.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def write(text: str) -> None:
    """Show a piece of text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def note(line: str) -> None:
    """Say something that is not part of the output."""
    print(line, file=sys.stderr, flush=True)


def read_prompt(prompt: str | None, file: str | None) -> str:
    """The prompt: the argument, else the file, else what is piped in ("-" for both means stdin).

    One line break at the end of a file is taken as the file's, not the prompt's.
    Raises: UsageError if there is none, or more than one.
    """
    if prompt is not None and file is not None:
        raise UsageError("give the prompt as an argument or with --file, not both")
    if prompt is not None and prompt != "-":
        return prompt
    if file is None and prompt is None and sys.stdin.isatty():
        raise UsageError("no prompt: give it as an argument, with --file, or pipe it in")
    if file is None or file == "-":
        data, name = sys.stdin.buffer.read(), "stdin"
    else:
        with open(os.path.expanduser(file), "rb") as opened:
            data, name = opened.read(), file
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    if prompt is None and not text:
        raise UsageError(f"no prompt: {name} is empty")
    return text.removesuffix("\n").removesuffix("\r")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it."""
    return stream.isatty()


def seconds(value: float) -> str:
    """0.012 -> "12 ms"."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def size(num_bytes: int) -> str:
    """1536000 -> "1.5 MiB"."""
    value = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def count(value: int) -> str:
    """7300000 -> "7.3 M"."""
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return str(value)
