"""Prometheus metrics of a server: vLLM's names, so that its dashboards work, and quire's own beside them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from quire.server.histogram import Histogram, steps_of_1_2_5

if TYPE_CHECKING:
    from quire import _core

PLAIN_TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

FINISH_REASONS = ("stop", "length", "abort", "error")

# Edges in seconds. All of vLLM's are among them; those below its first one tell fast models apart.
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN_TOKENS = (
    *(0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST = (
    *(0.01, 0.025, 0.05, 0.1, 0.2),
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

# vLLM's gauges that follow it from outside: a window shorter than this would jump with every step.
_THROUGHPUT_WINDOW_SECONDS = 5.0


class EngineLike(Protocol):
    """What Metrics asks of an engine; `_core.Engine` is one."""

    @property
    def description(self) -> _core.ModelDescription:
        """The model and the memory plan."""

    def stats(self) -> _core.EngineStats:
        """Counters, consistent with each other."""


_Read = Callable[["_core.EngineStats"], float]


def _kv_usage(stats: _core.EngineStats) -> float:
    return 1 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0


def _swap_usage(stats: _core.EngineStats) -> float:
    return 1 - stats.num_free_swap_blocks / stats.num_swap_blocks if stats.num_swap_blocks else 0.0


def _prefill_tokens(stats: _core.EngineStats) -> float:
    return stats.num_prompt_tokens + stats.num_cached_tokens


# Names in vLLM 0.4.0 and in today's vLLM.
_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("num_requests_running", "Requests in the running batch.", lambda stats: stats.num_running),
    ("num_requests_waiting", "Requests that wait for their first step.", lambda stats: stats.num_waiting),
    ("num_requests_swapped", "Requests swapped out to the host's memory.", lambda stats: stats.num_swapped),
    ("kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", _kv_usage),
    ("gpu_cache_usage_perc", "The same as kv_cache_usage_perc, by its older name.", _kv_usage),
    ("cpu_cache_usage_perc", "Share of the host's swap space in use, 0 to 1; 0 if there is none.", _swap_usage),
)
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("prompt_tokens", "Prompt tokens processed: computed, or found in the prefix cache.", _prefill_tokens),
    ("prompt_tokens_cached", "Prompt tokens found in the prefix cache.", lambda stats: stats.num_cached_tokens),
    ("generation_tokens", "Tokens generated.", lambda stats: stats.num_generated_tokens),
    ("num_preemptions", "Requests put back to wait for want of KV blocks.", lambda stats: stats.num_preemptions),
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", _prefill_tokens),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda stats: stats.num_cached_tokens),
    ("gpu_prefix_cache_queries", "The same as prefix_cache_queries, by its older name.", _prefill_tokens),
    ("gpu_prefix_cache_hits", "The same as prefix_cache_hits, older.", lambda stats: stats.num_cached_tokens),
)
_OWN_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("kv_blocks", "KV blocks there are.", lambda stats: stats.num_blocks),
    ("kv_blocks_free", "KV blocks free to take, cached ones that nobody uses included.", lambda s: s.num_free_blocks),
)
_OWN_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("steps", "Steps of the engine.", lambda stats: stats.num_steps),
    (
        "prompt_tokens_computed",
        "Prompt tokens computed, again after a preemption; without those found in the cache.",
        lambda stats: stats.num_prompt_tokens,
    ),
    ("requests_finished", "Requests that ended in the engine, for any reason.", lambda s: s.num_finished_requests),
)


class Throughput:
    """Prompt and generated tokens per second since the last reading that is at least `window` seconds old."""

    def __init__(self, stats: _core.EngineStats, now: float, window: float) -> None:
        self._window = window
        self._since = now
        self._prompt, self._generated = _prefill_tokens(stats), float(stats.num_generated_tokens)
        self._rates = (0.0, 0.0)

    def read(self, stats: _core.EngineStats, now: float) -> tuple[float, float]:
        """Tokens per second: prompts', generated."""
        seconds = now - self._since
        if seconds > 0 and seconds >= self._window:
            prompt, generated = _prefill_tokens(stats), float(stats.num_generated_tokens)
            self._rates = ((prompt - self._prompt) / seconds, (generated - self._generated) / seconds)
            self._since, self._prompt, self._generated = now, prompt, generated
        return self._rates


class Metrics:
    """What a server tells about itself at /metrics and in its log.

    Gauges and token counters are read from the engine when asked for; only what the engine does not know is recorded.
    No prompt, key or request id is among it.

    Args:
        model_name: the label `model_name` of every metric.
        prefix: of vLLM's names; quire's own begin with "quire:" in any case.
        engine: whose numbers these are.

    Raises: ValueError for a prefix that cannot begin a metric's name.

    Thread safety: what records is called from one thread, the event loop's; render() and log_line() from any one.
    """

    def __init__(self, model_name: str, prefix: str, engine: EngineLike) -> None:
        if not re.fullmatch("([a-zA-Z_:][a-zA-Z0-9_:]*)?", prefix):
            raise ValueError(
                f"metrics_prefix must be letters, digits, '_' and ':', and no digit first, got {prefix!r}."
            )
        # A folder's name may hold bytes that are no text.
        self._model_name = model_name.encode("utf-8", "replace").decode()
        self._prefix = prefix
        self._engine = engine
        stats, now = engine.stats(), time.monotonic()
        self._shown = Throughput(stats, now, _THROUGHPUT_WINDOW_SECONDS)
        self._logged = Throughput(stats, now, 0)
        self._was_idle = False
        self._finished = dict.fromkeys(FINISH_REASONS, 0)
        self._refused: dict[str, int] = {}
        self._make_histograms(steps_of_1_2_5(engine.description.memory.max_model_len))
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def _make_histograms(self, token_counts: tuple[float, ...]) -> None:
        def histogram(name: str, documentation: str, edges: tuple[float, ...]) -> Histogram:
            self._histograms.append((name, documentation, made := Histogram(edges)))
            return made

        self._histograms: list[tuple[str, str, Histogram]] = []
        self._first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token of a request.", _FIRST_TOKEN
        )
        self._between = histogram(
            "inter_token_latency_seconds", "From one token of a sequence to its next.", _BETWEEN_TOKENS
        )
        self._histograms.append(
            ("time_per_output_token_seconds", "The same as inter_token_latency_seconds, older.", self._between)
        )
        self._mean_between = histogram(
            "request_time_per_output_token_seconds", "Mean of a request's time between tokens.", _BETWEEN_TOKENS
        )
        self._e2e = histogram("e2e_request_latency_seconds", "From arrival to the end of a request.", _REQUEST)
        self._queue = histogram("request_queue_time_seconds", "From arrival to a request's first step.", _REQUEST)
        self._inference = histogram("request_inference_time_seconds", "From first step to end.", _REQUEST)
        self._prefill = histogram("request_prefill_time_seconds", "From first step to first token.", _REQUEST)
        self._decode = histogram("request_decode_time_seconds", "From first token to end.", _REQUEST)
        self._prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens of a request.", token_counts)
        self._generated_tokens = histogram("request_generation_tokens", "Tokens a request generated.", token_counts)
        self._longest = histogram(
            "request_max_num_generation_tokens", "Tokens of the longest sequence of a request.", token_counts
        )
        self._params_n = histogram("request_params_n", "Parameter n of a request.", (1, 2, 5, 10, 20))
        self._params_max_tokens = histogram("request_params_max_tokens", "Parameter max_tokens.", token_counts)

    def first_token(self, seconds_since_arrival: float) -> None:
        """Record that a request has its first token."""
        self._first_token.add(seconds_since_arrival)

    def tokens(self, num: int, seconds_since_last: float) -> None:
        """Record `num` tokens that came, each, so many seconds after the one before it in its sequence."""
        self._between.add(seconds_since_last, num)

    def finished(
        self,
        *,
        prompt_tokens: int,
        generated_tokens: int,
        e2e_seconds: float,
        queue_seconds: float,
        finish_reason: str,
        params_n: int,
        max_tokens: int | None,
        first_token_seconds: float | None = None,
        longest: int | None = None,
    ) -> None:
        """Record the end of a request.

        Args:
            generated_tokens: of all its sequences; `longest` of the longest one, if that is known.
            e2e_seconds, first_token_seconds: since its arrival; the latter None if it had no token or nobody knows.
            queue_seconds: from arrival to the first step.
            finish_reason: one of FINISH_REASONS. Raises: KeyError for another.
        """
        self._finished[finish_reason] += 1
        longest = generated_tokens if longest is None else longest
        self._e2e.add(e2e_seconds)
        self._queue.add(queue_seconds)
        self._inference.add(e2e_seconds - queue_seconds)
        self._prompt_tokens.add(prompt_tokens)
        self._generated_tokens.add(generated_tokens)
        self._longest.add(longest)
        self._params_n.add(params_n)
        if max_tokens is not None:
            self._params_max_tokens.add(max_tokens)
        if first_token_seconds is not None:
            self._prefill.add(first_token_seconds - queue_seconds)
            self._decode.add(e2e_seconds - first_token_seconds)
            if longest > 1:
                self._mean_between.add((e2e_seconds - first_token_seconds) / (longest - 1))

    def refused(self, kind: str) -> None:
        """Record a request that was turned away. `kind` becomes a label: a word of the server's, not the client's."""
        self._refused[kind] = self._refused.get(kind, 0) + 1

    def render(self, accept_header: str) -> tuple[bytes, str]:
        """Body and content type of an answer to GET /metrics: OpenMetrics for who accepts it, else plain text."""
        if "application/openmetrics-text" in accept_header:
            return bytes(generate_openmetrics(self._registry)), OPENMETRICS
        return bytes(generate_latest(self._registry)), PLAIN_TEXT

    def log_line(self) -> str:
        """One line of what happens since the call before; empty from the second idle one on, as vLLM is silent then."""
        stats = self._engine.stats()
        prompt, generated = self._logged.read(stats, time.monotonic())
        idle = not (prompt or generated or stats.num_running or stats.num_waiting or stats.num_swapped)
        silent, self._was_idle = idle and self._was_idle, idle
        if silent:
            return ""
        hit_rate = stats.num_cached_tokens / (_prefill_tokens(stats) or 1)
        swapped = f"Swapped: {stats.num_swapped} reqs, " if stats.num_swap_blocks else ""
        return (
            f"Avg prompt throughput: {prompt:.1f} tokens/s, Avg generation throughput: {generated:.1f} tokens/s, "
            f"Running: {stats.num_running} reqs, {swapped}Waiting: {stats.num_waiting} reqs, "
            f"KV cache usage: {100 * _kv_usage(stats):.1f}%, Prefix cache hit rate: {100 * hit_rate:.1f}%"
        )

    def collect(self) -> Iterator[Any]:
        """All metrics as they stand, for prometheus_client."""
        stats = self._engine.stats()
        own = "quire:"
        yield self._info()
        for prefix, gauges in ((self._prefix, _GAUGES), (own, _OWN_GAUGES)):
            for name, documentation, read in gauges:
                yield self._gauge(prefix + name, documentation, read(stats))
        for prefix, counters in ((self._prefix, _COUNTERS), (own, _OWN_COUNTERS)):
            for name, documentation, read in counters:
                yield self._counter(prefix + name, documentation, {"": read(stats)})
        prompt, generated = self._shown.read(stats, time.monotonic())
        what = f"tokens per second, over the last {_THROUGHPUT_WINDOW_SECONDS:.0f} seconds or more."
        yield self._gauge(self._prefix + "avg_prompt_throughput_toks_per_s", f"Prompt {what}", prompt)
        yield self._gauge(self._prefix + "avg_generation_throughput_toks_per_s", f"Generated {what}", generated)
        sources = {"local_compute": stats.num_prompt_tokens, "local_cache_hit": stats.num_cached_tokens}
        name = self._prefix + "prompt_tokens_by_source"
        yield self._counter(name, "Prompt tokens by where their KV came from.", sources, "source")
        name = self._prefix + "request_success"
        yield self._counter(name, "Requests that ended, by reason.", self._finished, "finished_reason")
        name = own + "requests_refused"
        yield self._counter(name, "Requests turned away before they reached the engine.", self._refused, "kind")
        for name, documentation, histogram in self._histograms:
            yield histogram.family(self._prefix + name, documentation, {"model_name": self._model_name})

    def _info(self) -> Any:
        memory = self._engine.description.memory
        values = {
            "block_size": memory.block_size,
            "num_gpu_blocks": memory.num_blocks,
            "num_cpu_blocks": memory.num_swap_blocks,
            "kv_cache_memory_bytes": memory.kv_cache_bytes,
        }
        family = InfoMetricFamily(
            self._prefix + "cache_config", "How the KV cache was laid out.", labels=["model_name"]
        )
        family.add_metric([self._model_name], {name: str(value) for name, value in values.items()})
        return family

    def _gauge(self, name: str, documentation: str, value: float) -> Any:
        family = GaugeMetricFamily(name, documentation, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _counter(
        self, name: str, documentation: str, values: dict[str, float] | dict[str, int], label: str = ""
    ) -> Any:
        """A counter, with one value for each value of `label` if there is one; `_total` is added to its name."""
        family = CounterMetricFamily(name, documentation, labels=["model_name", label] if label else ["model_name"])
        for key, value in list(values.items()):
            family.add_metric([self._model_name, key] if label else [self._model_name], value)
        return family
