"""Measure a server under load: times to the first token, between tokens and to the end, and tokens per second.

  quire bench serve                                                     the server at http://127.0.0.1:8000
  quire bench serve --url http://host:8000 --num-prompts 200 --max-concurrency 64
  quire bench serve --request-rate 10 --save-result --plot result.svg   ten requests per second
  quire bench serve --endpoint /v1/chat/completions                     chat instead of completions

Any server that speaks OpenAI's API will do. Prompts are random tokens unless --dataset-name says otherwise; a server
without /tokenize gets random words.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quire.arguments import check_fields
from quire.checks import BOOL, FLOAT, TEXT, Kind, at_least, described, one_of, optional
from quire.cli import EXIT_ERROR, UsageError
from quire.client import DEFAULT_URL, Client, ServerError, api_key
from quire.commands import bench, console
from quire.commands.bench_data import SAMPLE, DataFlags, Sample, Tokenize, samples, token_pool
from quire.commands.bench_plot import Panel, rate_over_time, shares, write_plot
from quire.commands.bench_streams import Answer, Recordings, send_all
from quire.commands.flags import add_field_flags

USAGE = "[FLAG ...]"

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

METRICS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def _rate(name: str, value: Any) -> float:
    rate = float(value) if value == math.inf else FLOAT.check(name, value)
    if not rate > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}.")
    return float(rate)


def _metric_names(name: str, value: Any) -> list[str]:
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if not names or set(names) - set(METRICS):
        raise ValueError(f"{name} must be some of {','.join(METRICS)}, got {value!r}.")
    return names


def _percentiles(name: str, value: Any) -> list[float]:
    try:
        shares_ = [float(part) for part in value.split(",")] if isinstance(value, str) else list(value)
    except ValueError:
        shares_ = []
    if not shares_ or not all(0 <= share <= 100 for share in shares_):
        raise ValueError(f"{name} must be numbers in [0, 100] such as 50,99, got {value!r}.")
    return shares_


RATE = Kind(_rate, float, "X", "a number or inf")


@dataclass
class ServeFlags:
    """What is measured, where."""

    url: str = described(DEFAULT_URL, TEXT, "address of the server", group="server", flags=("--base-url",))
    host: str | None = described(None, optional(TEXT), "its host, instead of --url", group="server")
    port: int | None = described(None, optional(at_least(1)), "its port, instead of --url", group="server")
    endpoint: str = described(COMPLETIONS, one_of(COMPLETIONS, CHAT), "what to ask", group="server")
    backend: str = described(
        "openai", one_of("openai", "openai-chat", "vllm", "quire"), "openai-chat is --endpoint for chat", group="server"
    )
    model: str | None = described(
        None, optional(TEXT), "name of the model in requests; default: the first of /v1/models", group="server"
    )
    api_key: str | None = described(
        None, optional(TEXT), "key of the server; default: QUIRE_API_KEY or VLLM_API_KEY", group="server"
    )
    request_rate: float = described(math.inf, RATE, "requests per second; inf: all at once", group="load")
    burstiness: float = described(
        1.0, RATE, "1: arrivals as of a Poisson process; less: in bursts; more: evenly", group="load"
    )
    max_concurrency: int | None = described(
        None, optional(at_least(1)), "most requests at once, the others wait here", group="load"
    )
    ignore_eos: bool = described(
        True, BOOL, "do not end at end-of-text tokens; a field that only quire and vLLM know", group="load"
    )
    temperature: float = described(0.0, at_least(0, FLOAT), "0 always takes the best token", group="load")
    disable_tqdm: bool = described(False, BOOL, "no progress bar", group="results")
    percentile_metrics: Any = described(
        "ttft,tpot,itl", Kind(_metric_names, str, "LIST"), "what to print, of ttft,tpot,itl,e2el", group="results"
    )
    metric_percentiles: Any = described("99", Kind(_percentiles, str, "LIST"), "as in 50,90,99", group="results")
    save_result: bool = described(False, BOOL, "write the results into a file named after them", group="results")
    save_detailed: bool = described(False, BOOL, "with the numbers and the text of every request", group="results")
    result_dir: str = described(".", TEXT, "folder of that file", group="results")
    result_filename: str | None = described(None, optional(TEXT), "name of that file", group="results")
    output_json: str | None = bench.OUTPUT_JSON
    plot: str | None = bench.PLOT

    def __post_init__(self) -> None:
        check_fields(self)
        if self.backend == "openai-chat":
            self.endpoint = CHAT
        if self.host is not None or self.port is not None:
            self.url = f"http://{self.host or '127.0.0.1'}:{self.port or 8000}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire bench serve`."""
    add_field_flags(parser, ServeFlags)
    add_field_flags(parser, DataFlags)


def run(options: argparse.Namespace) -> int:
    """Run `quire bench serve`."""
    console.prepare_output()
    flags: ServeFlags = bench.flags_of(ServeFlags, options)
    data: DataFlags = bench.flags_of(DataFlags, options)
    try:
        client = Client(flags.url, api_key(flags.api_key))
    except ValueError as error:
        raise UsageError(str(error)) from None
    model, context = client.model(flags.model)
    _try_once(client, flags.endpoint, _body(flags, model, Sample("Hello", 1, 1)))
    try:
        prompts = _prompts(client, data, context, flags.endpoint == CHAT, model)
    except ValueError as error:
        raise UsageError(str(error)) from None
    bodies = [_body(flags, model, one) for one in prompts]
    _try_once(client, flags.endpoint, bodies[0])
    answers, seconds = _measure(client, flags, bodies, data.seed)
    return _report(flags, data, model, prompts, answers, seconds)


def _prompts(client: Client, data: DataFlags, context: int | None, chat: bool, model: str) -> list[Sample]:
    """Random prompts are ids; where ids cannot be sent they are words, about one token each."""

    def tokenize(text: str) -> list[int]:
        answer = client.post("/tokenize", {"model": model, "prompt": text, "add_special_tokens": False})
        return [int(token_id) for token_id in answer["tokens"]]

    def count_words(text: str) -> list[int]:
        return list(range(len(text.split())))

    try:
        pool, measure = token_pool(tokenize), _remembered(tokenize)
    except (ServerError, KeyError, TypeError, ValueError):
        console.note("the server has no /tokenize: prompts are random words, counted as a token each")
        pool, measure = [], count_words
    if data.dataset_name != "random" or (pool and not chat):
        return samples(data, measure, pool, context)
    # A chat template writes a few tokens around the text, and some words are two.
    words = SAMPLE.split()
    room = None if context is None else max(1, context * 2 // 3)
    drawn = samples(data, measure, range(len(words)), room)
    for one in drawn:
        one.prompt = " ".join(words[index] for index in one.prompt if isinstance(index, int))
    return drawn


def _remembered(tokenize: Tokenize) -> Tokenize:
    known: dict[str, list[int]] = {}

    def look_up(text: str) -> list[int]:
        if text not in known:
            known[text] = tokenize(text)
        return known[text]

    return look_up


def _body(flags: ServeFlags, model: str, prompt: Sample) -> dict[str, Any]:
    text: dict[str, Any] = {"prompt": prompt.prompt}
    if flags.endpoint == CHAT:
        text = {"messages": [{"role": "user", "content": prompt.prompt}]}
    body = {
        "model": model,
        **text,
        "max_tokens": prompt.num_output,
        "temperature": flags.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {**body, "ignore_eos": True} if flags.ignore_eos else body


def _try_once(client: Client, endpoint: str, body: dict[str, Any]) -> None:
    """A request before the others, so that what is wrong with all of them is told once, and nothing is cold.

    Raises: ServerError, ConnectionError.
    """
    with client.stream(endpoint, body) as events:
        for _ in events:
            pass


def _measure(client: Client, flags: ServeFlags, bodies: list[dict[str, Any]], seed: int) -> tuple[list[Answer], float]:
    from tqdm import tqdm

    recordings = Recordings(client.address, client.headers(), flags.endpoint)
    readers: list[Callable[[], Answer] | None] = [None] * len(bodies)
    delays = _arrivals(len(bodies), flags.request_rate, flags.burstiness, seed)
    begin = 0.0
    with tqdm(total=len(bodies), desc="Requests", disable=flags.disable_tqdm) as bar:

        async def send(index: int) -> None:
            readers[index] = await recordings.record(bodies[index], begin)
            bar.update(1)

        begin = time.perf_counter()
        asyncio.run(send_all(len(bodies), delays, flags.max_concurrency, send))
        seconds = time.perf_counter() - begin
    return [reader() for reader in readers if reader is not None], seconds


def _arrivals(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds at which requests are sent: intervals of a gamma distribution, which is Poisson's for burstiness 1."""
    if math.isinf(rate):
        return [0.0] * count
    generator, at, result = random.Random(seed), 0.0, []
    for _ in range(count):
        result.append(at)
        at += generator.gammavariate(burstiness, 1 / (rate * burstiness))
    return result


def metrics(answers: Sequence[Answer], seconds: float, percentiles: Sequence[float]) -> dict[str, Any]:
    """The numbers, by vLLM's names."""
    good = [one for one in answers if not one.error]
    num_input, num_output = sum(one.num_input for one in good), sum(one.num_output for one in good)
    result: dict[str, Any] = {
        "duration": seconds,
        "completed": len(good),
        "failed": len(answers) - len(good),
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "request_throughput": len(good) / seconds,
        "input_throughput": num_input / seconds,
        "output_throughput": num_output / seconds,
        "total_token_throughput": (num_input + num_output) / seconds,
        "max_concurrent_requests": _most_at_once(answers),
    }
    measured = {
        "ttft": [one.ttft for one in good],
        "tpot": [one.tpot for one in good if one.num_output > 1],
        "itl": [seconds for one in good for seconds in one.itls],
        "e2el": [one.latency for one in good],
    }
    for name, values in measured.items():
        result |= bench.distribution(name, values, percentiles)
    return result


def _most_at_once(answers: Sequence[Answer]) -> int:
    changes = sorted([(one.start, 1) for one in answers] + [(one.start + one.latency, -1) for one in answers])
    most = running = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def _report(
    flags: ServeFlags, data: DataFlags, model: str, prompts: list[Sample], answers: list[Answer], seconds: float
) -> int:
    for one, prompt in zip(answers, prompts, strict=True):
        one.num_input = one.num_input or prompt.num_input
    numbers = metrics(answers, seconds, flags.metric_percentiles)
    console.write(_table(flags, numbers))
    errors = sorted({one.error for one in answers if one.error})
    for error in errors[:5]:
        console.note(f"failed: {error}")
    load = {
        "backend": flags.backend,
        "num_prompts": len(prompts),
        "request_rate": "inf" if math.isinf(flags.request_rate) else flags.request_rate,
        "burstiness": flags.burstiness,
        "max_concurrency": flags.max_concurrency,
    }
    result = {**bench.origin(model, data.seed), "tokenizer_id": model, **load, **numbers}
    if flags.save_detailed:
        result |= _details(answers)
    if flags.save_result:
        bench.write_json(f"{flags.result_dir}/{flags.result_filename or _file_name(flags, model, result)}", result)
    bench.write_json(flags.output_json, result)
    title = f"{model}: {len(prompts)} requests, {numbers['output_throughput']:.0f} output tokens/s"
    write_plot(flags.plot, title, _panels(answers))
    return EXIT_ERROR if numbers["completed"] == 0 else 0


def _details(answers: list[Answer]) -> dict[str, Any]:
    return {
        "input_lens": [one.num_input for one in answers],
        "output_lens": [one.num_output for one in answers],
        "ttfts": [one.ttft for one in answers],
        "itls": [one.itls for one in answers],
        "start_times": [one.start for one in answers],
        "generated_texts": [one.text for one in answers],
        "errors": [one.error for one in answers],
    }


def _file_name(flags: ServeFlags, model: str, result: dict[str, Any]) -> str:
    concurrency = f"-concurrency{flags.max_concurrency}" if flags.max_concurrency else ""
    return f"{flags.backend}-{result['request_rate']}qps{concurrency}-{model.split('/')[-1]}-{result['date']}.json"


def _table(flags: ServeFlags, numbers: dict[str, Any]) -> str:
    rows: list[tuple[str, float | int | str]] = [
        ("Successful requests:", numbers["completed"]),
        ("Failed requests:", numbers["failed"]),
        ("Benchmark duration (s):", numbers["duration"]),
        ("Total input tokens:", numbers["total_input_tokens"]),
        ("Total generated tokens:", numbers["total_output_tokens"]),
        ("Request throughput (req/s):", numbers["request_throughput"]),
        ("Output token throughput (tok/s):", numbers["output_throughput"]),
        ("Total token throughput (tok/s):", numbers["total_token_throughput"]),
        ("Peak concurrent requests:", numbers["max_concurrent_requests"]),
    ]
    for name in flags.percentile_metrics:
        rows.append((f"{f' {METRICS[name]} ':-^50}", ""))
        keys = ["mean", "median", *(f"p{share:g}" for share in flags.metric_percentiles)]
        rows += [(f"{key.title()} {name.upper()} (ms):", numbers[f"{key}_{name}_ms"]) for key in keys]
    return bench.table("Serving Benchmark Result", rows)


def _panels(answers: list[Answer]) -> list[Panel]:
    good = [one for one in answers if not one.error]
    arrivals = []
    for one in good:
        at = one.start + one.ttft
        arrivals.append(at)
        for gap in one.itls:
            at += gap
            arrivals.append(at)
    return [
        shares("Time to the first token", "ms", [1000 * one.ttft for one in good]),
        shares("Between tokens", "ms", [1000 * gap for one in good for gap in one.itls]),
        shares("Time to the end", "ms", [1000 * one.latency for one in good]),
        rate_over_time("Text of all answers", "events/s", arrivals),
    ]
