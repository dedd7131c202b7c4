"""Have a server complete a prompt. The text appears on stdout while it is made, then one line about speed on stderr.

  quire complete "Once upon a time"                              asks a server on this machine
  quire complete --url https://example.org --api-key KEY "Hi"    asks another one, of any make that speaks OpenAI's API
  quire complete --temperature 0 --max-tokens 50 < prompt.txt

The prompt is the argument, the content of --file, or what is piped in.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from quire.client import DEFAULT_URL, Client, ServerError
from quire.commands import console
from quire.commands.flags import add_prompt_flags, add_sampling_flags
from quire.commands.remote import add_server_flags, connect, request_body

USAGE = "[PROMPT] [FLAG ...]"

DEFAULTS = {"max_tokens": 256}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire complete`."""
    add_prompt_flags(parser)
    parser.add_argument("--json", action="store_true", help="print the server's answer as it is, at the end")
    parser.add_argument("--quiet", action="store_true", help="no line about speed at the end")
    add_server_flags(parser, DEFAULT_URL)
    add_sampling_flags(parser, DEFAULTS)


def run(options: argparse.Namespace) -> int:
    """Run `quire complete`."""
    console.prepare_output()
    prompt = console.read_prompt(options.prompt, options.file)
    client = connect(options)
    body = {**request_body(options, client, DEFAULTS["max_tokens"]), "prompt": prompt}
    if options.json:
        console.write(json.dumps(client.post("/v1/completions", body), indent=2, ensure_ascii=False) + "\n")
        return 0
    if body.get("n", 1) > 1:
        _at_the_end(client, body, options.echo)
        return 0
    speed = RemoteSpeed()
    _stream(client, body, options.echo, speed)
    if not options.quiet:
        console.note(speed.line())
    return 0


class RemoteSpeed:
    """What the last line tells, as seen from here."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: float | None = None
        self._last = self._start
        self._num_events = 0
        self._num_tokens: int | None = None

    def add(self, event: dict[str, Any], text: str) -> None:
        """Note an event that brings text, or the count of tokens at the end."""
        if text:
            self._last = time.monotonic()
            self._first = self._first or self._last
            self._num_events += 1
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self._num_tokens = usage["completion_tokens"]

    def line(self) -> str:
        """One line for people."""
        if self._first is None:
            return "no text"
        first = f"first token after {console.seconds(self._first - self._start)}"
        num_tokens = self._num_tokens or self._num_events
        # The first event brings the first token; where all text came in one, there is only the whole time.
        if self._num_events > 1:
            speed = (num_tokens - 1) / max(self._last - self._first, 1e-6)
        else:
            speed = num_tokens / max(self._last - self._start, 1e-6)
        return f"{num_tokens} tokens, {speed:.1f} tokens/s, {first}"


def _stream(client: Client, body: dict[str, Any], echo: bool, speed: RemoteSpeed) -> None:
    with client.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}}) as events:
        last = "\n"
        if echo:
            console.write(body["prompt"])
            last = body["prompt"]
        try:
            for event in events:
                text = "".join(choice.get("text") or "" for choice in event.get("choices") or [])
                speed.add(event, text)
                if text:
                    last = text
                    console.write(text)
        finally:
            if not last.endswith("\n"):
                console.write("\n")


def _at_the_end(client: Client, body: dict[str, Any], echo: bool) -> None:
    """Several completions would mix if they were shown as they come."""
    answer = client.post("/v1/completions", body)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not choices:
        raise ServerError("the server answered without choices.", 200)
    for choice in choices:
        text = (body["prompt"] if echo else "") + choice["text"]
        end = "" if text.endswith("\n") else "\n"
        console.write(f"--- {choice['index'] + 1} of {len(choices)}\n{text}{end}")
