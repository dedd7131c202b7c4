#!/usr/bin/env python3
"""Time quire on a GPU: steps, prompts, a list of requests, first tokens and start-up, with random weights.

    python tests/bench/gpu_latency.py tests/data/configs/llama_3_8b.json
    python tests/bench/gpu_latency.py CONFIG --cases decode:1 decode:64 --repeats 3 --option deterministic=true

CONFIG is a config.json of any family. Cases (token ids at random, greedy, end of text ignored, no prefix reuse):

    decode:B        ms per step at batch B: prompts of 128, the 128 steps behind the first token
    decode:BxL      the same with prompts of L tokens. What the steps take is the difference of two runs, of which one
                    ends with the first tokens: where prompts take seconds, a difference between them counts as well
    steady:BxL      ms per step in which all B sequences are decoded, by the times at which tokens came
    prefill:BxL     prompt tokens/s of B prompts of L tokens that generate one token each
    first:L         ms from the call to the first token, one prompt of L tokens
    offline         500 requests at once, 110,000 tokens in and 99,999 out: requests/s and tokens out/s
    start           s from the start of a process to its first token; random weights are made meanwhile

Every case is run --repeats times behind one run that is not counted; best and median are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASES = "decode:1 decode:8 decode:64 decode:256 decode:32x4096 decode:16x8192 prefill:1x2048 prefill:1x8192".split()
CASES += "prefill:16x2048 first:16 first:128 first:512 first:2048 offline start".split()
STEPS = 128


def shape_of(case: str, default_length: int = 128) -> tuple[int, int]:
    batch, _, length = case.partition(":")[2].partition("x")
    return int(batch), int(length or default_length)


def request_list(total: int, count: int, random_lengths: random.Random) -> list[int]:
    """`count` lengths that spread over a factor of ten and sum up to `total`."""
    raw = [random_lengths.uniform(0.2, 1.8) for _ in range(count)]
    lengths = [max(1, round(value * total / sum(raw))) for value in raw]
    lengths[0] += total - sum(lengths)
    return lengths


class Bench:
    def __init__(self, folder: str, options: dict[str, Any]) -> None:
        from quire import LLM

        self.llm = LLM(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            enable_prefix_caching=False,
            **options,
        )
        self.vocabulary = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
        self.random = random.Random(1)

    def run(self, lengths: list[int], generate: list[int]) -> tuple[float, list[Any]]:
        """Seconds, and the outputs, of prompts of `lengths` tokens that generate so many each."""
        from quire import SamplingParams

        prompts = [[self.random.randrange(self.vocabulary) for _ in range(length)] for length in lengths]
        params = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in generate]
        start = time.perf_counter()
        outputs = self.llm.generate(prompt_token_ids=prompts, sampling_params=params, use_tqdm=False)
        seconds = time.perf_counter() - start
        assert [len(output.outputs[0].token_ids) for output in outputs] == generate
        return seconds, outputs

    def seconds(self, lengths: list[int], generate: list[int]) -> float:
        return self.run(lengths, generate)[0]

    def step_ms(self, batch: int, length: int) -> float:
        first = self.seconds([length] * batch, [1] * batch)
        return (self.seconds([length] * batch, [STEPS + 1] * batch) - first) / STEPS * 1e3

    def steady_ms(self, batch: int, length: int) -> float:
        # The sequence that starts last ends first.
        _, outputs = self.run([length] * batch, [2 * STEPS + 1] * (batch - 1) + [STEPS + 1])
        last = outputs[-1].metrics
        assert last.first_token_time == max(output.metrics.first_token_time for output in outputs)
        assert last.finished_time == min(output.metrics.finished_time for output in outputs)
        return (last.finished_time - last.first_token_time) / STEPS * 1e3

    def measure(self, case: str) -> tuple[float, str]:
        kind = case.partition(":")[0]
        if kind == "decode":
            return self.step_ms(*shape_of(case)), "ms/step"
        if kind == "steady":
            return self.steady_ms(*shape_of(case)), "ms/step"
        if kind == "prefill":
            batch, length = shape_of(case)
            return batch * length / self.seconds([length] * batch, [1] * batch), "tok/s"
        if kind == "first":
            return self.seconds([shape_of(case)[0]], [1]) * 1e3, "ms"
        lengths = random.Random(7)
        prompts = request_list(110_000, 500, lengths)
        outputs = request_list(99_999, 500, lengths)
        return 500 / self.seconds(prompts, outputs), "req/s"


def better(unit: str, values: list[float]) -> float:
    return max(values) if unit in ("tok/s", "req/s") else min(values)


def start_seconds(arguments: argparse.Namespace, folder: str) -> float:
    code = (
        "import sys, json; from quire import LLM, SamplingParams;"
        "llm = LLM(model=sys.argv[1], skip_tokenizer_init=True, load_format='dummy', **json.loads(sys.argv[2]));"
        "llm.generate(prompt_token_ids=[[1] * 128], use_tqdm=False,"
        "sampling_params=SamplingParams(max_tokens=1, ignore_eos=True))"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, folder, json.dumps(options_of(arguments))], check=True)
    return time.perf_counter() - start


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {"device": arguments.device}
    for text in arguments.option:
        name, _, value = text.partition("=")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a model's config.json")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an argument of LLM")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = json.loads(Path(arguments.config).read_text())
        # Room for the cases that are longer than the model; no kernel works otherwise for it.
        config["max_position_embeddings"] = max(config["max_position_embeddings"], 16384)
        (Path(folder) / "config.json").write_text(json.dumps(config))
        cases = [case for case in arguments.cases if case != "start"]
        if cases:
            bench = Bench(folder, options_of(arguments))
            bench.seconds([128] * 2, [4] * 2)
            for case in cases:
                bench.measure(case)  # records graphs, chooses algorithms
                measured = [bench.measure(case) for _ in range(arguments.repeats)]
                values, unit = [value for value, _ in measured], measured[0][1]
                print(f"{case:16} best {better(unit, values):10.2f} median {statistics.median(values):10.2f} {unit}")
                sys.stdout.flush()
            bench.llm.close()
        if "start" in arguments.cases:
            values = [start_seconds(arguments, folder) for _ in range(arguments.repeats)]
            print(f"{'start':16} best {min(values):10.2f} median {statistics.median(values):10.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
