"""Complete a prompt. The text appears on stdout while it is made, then one line about speed on stderr.

The prompt is the argument, the content of --file, or what is piped in. Sampling parameters that are not given come
from the model's generation_config.json where it has any.

  quire generate "Once upon a time"                                    the built-in model
  quire generate --model ./model --temperature 0 "The capital of"      a model folder, the best token always
  quire generate --model org/name --max-tokens 50 < prompt.txt         a model of the hub, a prompt that is piped in
  quire generate --n 3 --seed 7 --json "Once upon a time"              three completions, as JSON
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from quire.arguments import EngineArgs
from quire.cli import EXIT_ERROR, UsageError
from quire.commands import console
from quire.commands.flags import add_engine_flags, add_prompt_flags, add_sampling_flags, given
from quire.sampling import SamplingParams, core_sampling

if TYPE_CHECKING:
    from quire.llm import LLM
    from quire.outputs import RequestMetrics

USAGE = "[PROMPT] [FLAG ...]"

# Where neither the flags nor the model say otherwise. The text is read behind its prompt, so it keeps its first space.
DEFAULTS = {"max_tokens": 256, "text_continues_prompt": True}

# The flag --seed is the request's.
ENGINE_FLAGS_LEFT_OUT = ("seed",)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire generate`."""
    add_prompt_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON at the end: text, token ids, log-probabilities")
    parser.add_argument("--quiet", action="store_true", help="no line about speed at the end")
    add_sampling_flags(parser, DEFAULTS)
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
        if options.json or params.n > 1:
            error = _at_the_end(llm, prompt, params, options, speed)
        else:
            error = _stream(llm, prompt, params, options.echo, speed)
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
    recommended = arguments.default_sampling()
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
    metrics: RequestMetrics | None = None
    """The engine's own times: text may wait on its way to the terminal."""

    def line(self) -> str:
        """One line for people."""
        loaded = f"loaded in {console.seconds(self.loaded)}"
        if self.metrics is None or self.metrics.first_token_time is None or self.metrics.last_token_time is None:
            return f"no tokens; {loaded}"
        first = self.metrics.first_token_time - self.metrics.arrival_time
        # The first token belongs to the prompt: with more than one, the speed is that of the others.
        if self.num_tokens > 1:
            speed = (self.num_tokens - 1) / max(self.metrics.last_token_time - self.metrics.first_token_time, 1e-6)
        else:
            speed = self.num_tokens / max(first, 1e-6)
        return f"{self.num_tokens} tokens, {speed:.1f} tokens/s, first token after {console.seconds(first)}, {loaded}"


def _stream(llm: LLM, prompt: str, params: SamplingParams, echo: bool, speed: Speed) -> str | None:
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
                    if completion.text:
                        last = completion.text
                        console.write(completion.text)
                error = output.error or error
                speed.metrics = output.metrics
        finally:
            if not last.endswith("\n"):
                console.write("\n")
    return error


def _at_the_end(llm: LLM, prompt: str, params: SamplingParams, options: argparse.Namespace, speed: Speed) -> str | None:
    """JSON, or several completions, which would mix if they were shown as they come."""
    output = llm.generate(prompt, params, use_tqdm=False)[0]
    speed.metrics = output.metrics
    speed.num_tokens = sum(len(completion.token_ids) for completion in output.outputs)
    if options.json:
        console.write(json.dumps(_finite(asdict(output)), indent=2, ensure_ascii=False) + "\n")
        return output.error
    for completion in output.outputs:
        text = (prompt if options.echo else "") + completion.text
        end = "" if text.endswith("\n") else "\n"
        console.write(f"--- {completion.index + 1} of {params.n}\n{text}{end}")
    return output.error


def _finite(value: Any) -> Any:
    """The same with null for infinite log-probabilities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
