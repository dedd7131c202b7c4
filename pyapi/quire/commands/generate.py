"""Complete a prompt. The text appears on stdout while it is made, then one line about speed on stderr.

The prompt is the argument, the content of --file, or what is piped in. Sampling parameters that are not given come
from the model's generation_config.json where it has any.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quire.arguments import EngineArgs
from quire.cli import EXIT_ERROR, UsageError
from quire.commands import console
from quire.commands.flags import add_engine_flags, add_sampling_flags, given
from quire.sampling import SamplingParams, core_sampling, default_sampling

if TYPE_CHECKING:
    from quire.llm import LLM

# Where neither the flags nor the model say otherwise. The text is read behind its prompt, so it keeps its first space.
DEFAULTS = {"max_tokens": 256, "text_continues_prompt": True}

# The flag --seed is the request's.
ENGINE_FLAGS_LEFT_OUT = ("seed",)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire generate`."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="text to complete; - for stdin")
    parser.add_argument("--file", metavar="FILE", help="read the prompt from a file")
    parser.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        default=sys.stdout.isatty(),
        help="print the prompt before the text (default: on a terminal)",
    )
    parser.add_argument("--quiet", action="store_true", help="no line about speed at the end")
    add_sampling_flags(parser)
    add_engine_flags(parser, exclude=ENGINE_FLAGS_LEFT_OUT, keep_defaults=False)


def run(options: argparse.Namespace) -> int:
    """Run `quire generate`."""
    console.prepare_output()
    prompt = console.read_prompt(options.prompt, options.file)
    arguments = engine_arguments(options)
    params = sampling_params(options, arguments, DEFAULTS)

    from quire.llm import LLM

    start = time.monotonic()
    with LLM.from_engine_args(arguments) as llm:
        speed = Speed(loaded=time.monotonic() - start)
        complete = _stream if params.n == 1 else _print_all
        error = complete(llm, prompt, params, options.echo, speed)
    if not options.quiet:
        repeat = "" if params.seed is None or "seed" in options else f"; --seed {params.seed} repeats it"
        console.note(speed.line() + repeat)
    if error:
        console.note(f"quire: error: {error}")
    return EXIT_ERROR if error else 0


def engine_arguments(options: argparse.Namespace) -> EngineArgs:
    """The engine flags that were given; a wrong value is a wrong command line."""
    try:
        return EngineArgs(**given(options, EngineArgs, ENGINE_FLAGS_LEFT_OUT))
    except ValueError as error:
        raise UsageError(str(error)) from None


def sampling_params(options: argparse.Namespace, arguments: EngineArgs, defaults: dict[str, Any]) -> SamplingParams:
    """The sampling flags that were given, over what the model recommends, over the command's own defaults.

    Without --seed each run draws another text, so a seed is chosen here, where it can be shown.
    """
    from_flags = given(options, SamplingParams)
    recommended = default_sampling(arguments.model_folder())
    try:
        SamplingParams(**from_flags)
        params = SamplingParams(**{**defaults, **recommended, **from_flags})
    except ValueError as error:
        raise UsageError(str(error)) from None
    core_sampling(params)  # what is not offered is told before anything is loaded
    if params.seed is None and params.sampling_type.name == "RANDOM":
        params.seed = int.from_bytes(os.urandom(4), "little")
    return params


@dataclass
class Speed:
    """What the last line tells."""

    loaded: float
    """Seconds."""
    num_tokens: int = 0
    first_token: float | None = None
    """Seconds from the request to the first token."""
    total: float = 0.0
    """Seconds from the request to the last token."""

    def line(self) -> str:
        """One line for people."""
        if self.first_token is None:
            return f"no tokens; loaded in {console.seconds(self.loaded)}"
        # The first token belongs to the prompt: with more than one, the speed is that of the others.
        decoding = self.total - self.first_token
        if self.num_tokens > 1 and decoding > 0:
            speed = (self.num_tokens - 1) / decoding
        else:
            speed = self.num_tokens / max(self.total, 1e-6)
        return (
            f"{self.num_tokens} tokens, {speed:.1f} tokens/s, first token after {console.seconds(self.first_token)}, "
            f"loaded in {console.seconds(self.loaded)}"
        )


def _stream(llm: LLM, prompt: str, params: SamplingParams, echo: bool, speed: Speed) -> str | None:
    start = time.monotonic()
    error = None
    last = "\n"
    with llm.stream(prompt, params) as outputs:
        if echo:
            console.write(prompt)
            last = prompt
        try:
            for output in outputs:
                for completion in output.outputs:
                    speed.num_tokens += len(completion.token_ids)
                    if completion.token_ids and speed.first_token is None:
                        speed.first_token = time.monotonic() - start
                    if completion.text:
                        console.write(completion.text)
                        last = completion.text
                error = output.error or error
        finally:
            speed.total = time.monotonic() - start
            if not last.endswith("\n"):
                console.write("\n")
    return error


def _print_all(llm: LLM, prompt: str, params: SamplingParams, echo: bool, speed: Speed) -> str | None:
    """Several completions would mix if they were shown as they come; each follows a line with its number."""
    start = time.monotonic()
    output = llm.generate(prompt, params, use_tqdm=False)[0]
    speed.total = time.monotonic() - start
    if output.metrics and output.metrics.first_token_time is not None:
        speed.first_token = output.metrics.first_token_time - output.metrics.arrival_time
    for completion in output.outputs:
        speed.num_tokens += len(completion.token_ids)
        text = (prompt if echo else "") + completion.text
        end = "" if text.endswith("\n") else "\n"
        console.write(f"--- {completion.index + 1} of {params.n}\n{text}{end}")
    return output.error
