"""Measure how long one batch of prompts takes, again and again, with a model that is loaded here.

  quire bench latency --model ./model
  quire bench latency --model ./model --batch-size 1 --input-len 512 --output-len 1     time to the first token
  quire bench latency --model ./model --output-json latency.json --plot latency.svg

Prompts are random tokens, and end-of-text tokens do not end an output. The prefix cache is off unless it is asked for
with --enable-prefix-caching: the prompts are the same every time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quire.arguments import EngineArgs, check_fields
from quire.checks import INT64, at_least, described
from quire.cli import UsageError
from quire.commands import bench, console
from quire.commands.bench_local import open_model, random_prompts
from quire.commands.bench_plot import shares, write_plot
from quire.commands.flags import add_engine_flags, add_field_flags
from quire.commands.generate import ENGINE_FLAGS_LEFT_OUT, engine_arguments
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    from quire.llm import LLM

USAGE = "[FLAG ...]"


@dataclass
class LatencyFlags:
    """What is measured."""

    input_len: int = described(32, at_least(1), "tokens per prompt", group="measurement")
    output_len: int = described(128, at_least(1), "tokens to generate per prompt", group="measurement")
    batch_size: int = described(8, at_least(1), "prompts in a batch", group="measurement")
    n: int = described(1, at_least(1), "completions per prompt", group="measurement")
    num_iters_warmup: int = described(10, at_least(0), "batches before the measured ones", group="measurement")
    num_iters: int = described(30, at_least(1), "batches that are measured", group="measurement")
    seed: int = described(0, INT64, "the same seed, the same prompts", group="measurement")
    output_json: str | None = bench.OUTPUT_JSON
    plot: str | None = bench.PLOT

    def __post_init__(self) -> None:
        check_fields(self)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire bench latency`."""
    add_field_flags(parser, LatencyFlags)
    add_engine_flags(parser, exclude=ENGINE_FLAGS_LEFT_OUT, keep_defaults=False)


def run(options: argparse.Namespace) -> int:
    """Run `quire bench latency`."""
    console.prepare_output()
    flags: LatencyFlags = bench.flags_of(LatencyFlags, options)
    options.enable_prefix_caching = getattr(options, "enable_prefix_caching", False)
    arguments = engine_arguments(options)
    with open_model(arguments) as llm:
        seconds = _measure(llm, flags)
    _report(arguments, flags, seconds)
    return 0


def _measure(llm: LLM, flags: LatencyFlags) -> list[float]:
    context = llm.llm_engine.get_model_config().max_model_len
    if flags.input_len + flags.output_len > context:
        raise UsageError(
            f"input_len={flags.input_len} and output_len={flags.output_len} are more than the context of {context}"
        )
    prompts = random_prompts(llm, flags.batch_size, flags.input_len, flags.seed)
    params = SamplingParams(n=flags.n, temperature=1.0, ignore_eos=True, max_tokens=flags.output_len, seed=flags.seed)

    from tqdm import tqdm

    seconds = []
    for index in tqdm(range(flags.num_iters_warmup + flags.num_iters), desc="Batches", leave=False):
        start = time.perf_counter()
        llm.generate(prompt_token_ids=prompts, sampling_params=params, use_tqdm=False)
        if index >= flags.num_iters_warmup:
            seconds.append(time.perf_counter() - start)
    return seconds


def _report(arguments: EngineArgs, flags: LatencyFlags, seconds: list[float]) -> None:
    percentiles = {str(share): bench.percentile(seconds, share) for share in bench.PERCENTILES}
    average = statistics.fmean(seconds)
    result: dict[str, Any] = {"avg_latency": average, "latencies": seconds, "percentiles": percentiles}
    model = arguments.model or "storyteller"
    settings = {name: getattr(flags, name) for name in ("input_len", "output_len", "batch_size", "n")}
    console.write(f"Avg latency: {average} seconds\n")
    for share, value in percentiles.items():
        console.write(f"{share}% percentile latency: {value} seconds\n")
    speed = flags.batch_size * flags.n * flags.output_len / average
    console.write(f"Output: {speed:.1f} tokens/s in batches of {flags.batch_size}\n")
    bench.write_json(flags.output_json, {**bench.origin(model, flags.seed), **settings, **result})
    title = f"{model}: {flags.batch_size} x ({flags.input_len} + {flags.output_len}) tokens"
    write_plot(flags.plot, title, [shares("Time of a batch", "ms", [1000 * value for value in seconds])])
