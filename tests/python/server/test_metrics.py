"""What /metrics says: names, labels, counters that only grow, buckets, and what it costs."""

import json
import re
import timeit
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import quire
from quire import _core
from quire.server.histogram import Histogram, steps_of_1_2_5
from quire.server.metrics import Metrics

# field.md's list of vLLM 0.4.0, as Prometheus stores them.
VLLM_0_4_0 = {
    "vllm:cache_config_info",
    "vllm:num_requests_running",
    "vllm:num_requests_swapped",
    "vllm:num_requests_waiting",
    "vllm:gpu_cache_usage_perc",
    "vllm:cpu_cache_usage_perc",
    "vllm:avg_prompt_throughput_toks_per_s",
    "vllm:avg_generation_throughput_toks_per_s",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:time_per_output_token_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
}
# Of today's vLLM: those that its own dashboards and well-known scrapers ask for.
VLLM_TODAY = {
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_cached_total",
    "vllm:prompt_tokens_by_source_total",
    "vllm:request_success_total",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_inference_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:request_max_num_generation_tokens_bucket",
    "vllm:request_params_n_bucket",
    "vllm:request_params_max_tokens_bucket",
}
VLLM_EDGES = {
    "time_to_first_token_seconds": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
    ),
    "time_per_output_token_seconds": (
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
        *(5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    ),
    "e2e_request_latency_seconds": (
        *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
        *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
    ),
    "request_prompt_tokens": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0),
    "request_params_n": (1.0, 2.0, 5.0, 10.0, 20.0),
}


class FakeEngine:
    """Numbers that a test sets."""

    def __init__(self) -> None:
        memory = SimpleNamespace(
            block_size=16, num_blocks=64, num_swap_blocks=8, kv_cache_bytes=1 << 20, max_model_len=512
        )
        self.description: Any = SimpleNamespace(memory=memory)
        self.numbers = {name: 0 for name in dir(_core.EngineStats) if name.startswith("num_")}
        self.numbers |= {"num_blocks": 64, "num_free_blocks": 64}

    def stats(self) -> Any:
        return SimpleNamespace(**self.numbers)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def metrics(engine: FakeEngine) -> Metrics:
    return Metrics("the model", "vllm:", engine)


def finish(metrics: Metrics, **changes: Any) -> None:
    """Record the end of an ordinary request."""
    ordinary = {
        "prompt_tokens": 30,
        "generated_tokens": 11,
        "e2e_seconds": 2.0,
        "queue_seconds": 0.5,
        "finish_reason": "stop",
        "params_n": 1,
        "max_tokens": 16,
    }
    metrics.finished(**(ordinary | changes))


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    body, content_type = metrics.render("text/plain")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def read(metrics: Metrics, name: str, **labels: str) -> float:
    """The one sample of this name with these labels."""
    found = [value for other, has, value in samples(metrics) if other == name and labels.items() <= has.items()]
    assert len(found) == 1, f"{name} {labels}: {len(found)} samples"
    return found[0]


def test_all_names_of_vllm_0_4_0_and_todays_are_there(metrics: Metrics) -> None:
    names = {name for name, _, _ in samples(metrics)}
    assert VLLM_0_4_0 <= names, sorted(VLLM_0_4_0 - names)
    assert VLLM_TODAY <= names, sorted(VLLM_TODAY - names)


def test_every_metric_but_the_process_s_has_the_label_model_name(metrics: Metrics) -> None:
    finish(metrics)
    metrics.refused("queue_full")
    for name, labels, _ in samples(metrics):
        if not name.startswith("process_"):
            assert labels["model_name"] == "the model", name


def test_no_sample_comes_twice_even_if_the_prefix_is_quire_s_own(engine: FakeEngine) -> None:
    for prefix in ("vllm:", "quire:", "_x9:", ""):
        metrics = Metrics("m", prefix, engine)
        metrics.refused("queue_full")
        seen = [(name, *sorted(labels.items())) for name, labels, _ in samples(metrics)]
        assert len(seen) == len(set(seen))
        assert f"{prefix}num_requests_running" in {one[0] for one in seen}
        assert "quire:steps_total" in {one[0] for one in seen}


@pytest.mark.parametrize("prefix", ["9a", "vllm-", "a b", "vllm:\n", "ä"])
def test_a_prefix_that_no_metric_may_have_is_refused_by_name(engine: FakeEngine, prefix: str) -> None:
    with pytest.raises(ValueError, match="metrics_prefix"):
        Metrics("m", prefix, engine)


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "line\nbreak", "ümläut", "lone \udc80 byte", "}"])
def test_any_model_name_makes_text_that_can_be_read_again(engine: FakeEngine, name: str) -> None:
    labels = {has["model_name"] for _, has, _ in samples(Metrics(name, "vllm:", engine)) if "model_name" in has}
    assert labels == {name.replace("\udc80", "?")}


def test_openmetrics_is_spoken_to_who_accepts_it(metrics: Metrics) -> None:
    finish(metrics)
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
    body, content_type = metrics.render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert "vllm:generation_tokens" in {family.name for family in parse_openmetrics(body.decode())}


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/plain;version=x", "text/plain;escaping=no", "application/openmetrics-text;version=\t;;="],
)
def test_no_accept_header_can_make_it_fail(metrics: Metrics, accept: str) -> None:
    body, _ = metrics.render(accept)
    assert b"vllm:num_requests_running" in body


def test_gauges_are_what_the_engine_says_at_the_moment(engine: FakeEngine, metrics: Metrics) -> None:
    engine.numbers |= {"num_running": 3, "num_waiting": 7, "num_free_blocks": 16}
    assert read(metrics, "vllm:num_requests_running") == 3
    assert read(metrics, "vllm:num_requests_waiting") == 7
    assert read(metrics, "vllm:kv_cache_usage_perc") == 0.75
    assert read(metrics, "vllm:gpu_cache_usage_perc") == 0.75
    assert read(metrics, "quire:kv_blocks") == 64
    assert read(metrics, "quire:kv_blocks_free") == 16
    engine.numbers["num_running"] = 0
    assert read(metrics, "vllm:num_requests_running") == 0


def test_the_swap_space_is_told_where_there_is_one(engine: FakeEngine, metrics: Metrics) -> None:
    engine.numbers |= {"num_swapped": 0, "num_swap_blocks": 0, "num_free_swap_blocks": 0}
    assert read(metrics, "vllm:num_requests_swapped") == read(metrics, "vllm:cpu_cache_usage_perc") == 0
    engine.numbers |= {"num_swapped": 2, "num_swap_blocks": 40, "num_free_swap_blocks": 30}
    assert read(metrics, "vllm:num_requests_swapped") == 2
    assert read(metrics, "vllm:cpu_cache_usage_perc") == 0.25


def test_cached_prompt_tokens_count_as_queried_and_as_hits(engine: FakeEngine, metrics: Metrics) -> None:
    engine.numbers |= {"num_prompt_tokens": 100, "num_cached_tokens": 300}
    assert read(metrics, "vllm:prompt_tokens_total") == 400
    assert read(metrics, "vllm:prefix_cache_queries_total") == 400
    assert read(metrics, "vllm:prefix_cache_hits_total") == 300
    assert read(metrics, "quire:prompt_tokens_computed_total") == 100
    assert read(metrics, "vllm:prompt_tokens_by_source_total", source="local_compute") == 100
    assert read(metrics, "vllm:prompt_tokens_by_source_total", source="local_cache_hit") == 300


def test_every_finish_reason_is_there_from_the_start_and_counted(metrics: Metrics) -> None:
    for reason in ("stop", "length", "abort", "error"):
        assert read(metrics, "vllm:request_success_total", finished_reason=reason) == 0
    finish(metrics, finish_reason="abort")
    assert read(metrics, "vllm:request_success_total", finished_reason="abort") == 1
    with pytest.raises(KeyError):
        finish(metrics, finish_reason="the client's words")


def test_the_parts_of_a_request_s_time_add_up(metrics: Metrics) -> None:
    finish(metrics, e2e_seconds=2.0, queue_seconds=0.5, first_token_seconds=0.75, generated_tokens=11)
    parts = {"e2e_request_latency": 2.0, "request_queue_time": 0.5, "request_inference_time": 1.5}
    parts |= {"request_prefill_time": 0.25, "request_decode_time": 1.25, "request_time_per_output_token": 0.125}
    for name, seconds in parts.items():
        assert read(metrics, f"vllm:{name}_seconds_sum") == pytest.approx(seconds), name
        assert read(metrics, f"vllm:{name}_seconds_count") == 1, name


def test_a_request_without_a_token_has_no_time_of_its_first_one(metrics: Metrics) -> None:
    finish(metrics, generated_tokens=0, finish_reason="abort", max_tokens=None)
    assert read(metrics, "vllm:request_prefill_time_seconds_count") == 0
    assert read(metrics, "vllm:request_params_max_tokens_count") == 0
    assert read(metrics, "vllm:e2e_request_latency_seconds_count") == 1


def test_buckets_have_all_edges_of_vllm_s(metrics: Metrics) -> None:
    for name, edges in VLLM_EDGES.items():
        has = [labels["le"] for other, labels, _ in samples(metrics) if other == f"vllm:{name}_bucket"]
        assert has[-1] == "+Inf"
        numbers = [float(edge) for edge in has[:-1]]
        assert numbers == sorted(numbers)
        assert set(edges) <= set(numbers), name


def test_a_value_on_an_edge_belongs_to_the_bucket_below() -> None:
    histogram = Histogram((1.0, 2.0))
    for value, times in ((0.5, 1), (1.0, 1), (1.5, 2), (2.5, 1)):
        histogram.add(value, times)
    values = {(s.name, s.labels.get("le")): s.value for s in histogram.family("h", "", {"a": "b"}).samples}
    assert values == {
        ("h_bucket", "1.0"): 2,
        ("h_bucket", "2.0"): 4,
        ("h_bucket", "+Inf"): 5,
        ("h_count", None): 5,
        ("h_sum", None): 7.0,
    }


@pytest.mark.parametrize("largest, last", [(0, None), (1, 1), (4, 2), (5, 5), (2048, 2000), (131072, 100000)])
def test_edges_of_token_counts_end_at_the_largest(largest: int, last: int | None) -> None:
    edges = steps_of_1_2_5(largest)
    assert (edges[-1] if edges else None) == last


def test_tokens_of_one_step_are_counted_each(metrics: Metrics) -> None:
    metrics.tokens(4, 0.02)
    for name in ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"):
        assert read(metrics, f"{name}_count") == 4
        assert read(metrics, f"{name}_sum") == pytest.approx(0.08)
        assert read(metrics, f"{name}_bucket", le="0.01") == 0
        assert read(metrics, f"{name}_bucket", le="0.025") == 4


def test_refusals_are_counted_by_kind(metrics: Metrics) -> None:
    for kind in ("queue_full", "draining", "queue_full"):
        metrics.refused(kind)
    assert read(metrics, "quire:requests_refused_total", kind="queue_full") == 2
    assert read(metrics, "quire:requests_refused_total", kind="draining") == 1


def test_counters_only_grow_while_a_real_engine_works(llm: quire.LLM) -> None:
    metrics = Metrics("tiny", "vllm:", llm.llm_engine.core)
    before: dict[tuple[str, ...], float] = {}
    for round in range(3):
        llm.generate(["abc"] * (round + 1), quire.SamplingParams(max_tokens=8), use_tqdm=False)
        metrics.first_token(0.01 * round)
        finish(metrics)
        now = {
            (name, *map(str, sorted(labels.items()))): value
            for name, labels, value in samples(metrics)
            if name.endswith(("_total", "_count", "_sum", "_bucket"))
        }
        assert all(now[key] >= value for key, value in before.items())
        before = now
    assert read(metrics, "vllm:generation_tokens_total") >= 6 * 8
    assert read(metrics, "vllm:num_requests_running") == 0
    assert read(metrics, "vllm:cache_config_info", block_size="16") == 1


def test_the_log_line_says_what_vllm_s_says(
    engine: FakeEngine, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("quire.server.metrics.time.monotonic", lambda: now)
    metrics = Metrics("m", "vllm:", engine)
    now += 10
    engine.numbers |= {"num_prompt_tokens": 50, "num_cached_tokens": 150, "num_generated_tokens": 1234}
    engine.numbers |= {"num_running": 2, "num_waiting": 1, "num_free_blocks": 48}
    assert metrics.log_line() == (
        "Avg prompt throughput: 20.0 tokens/s, Avg generation throughput: 123.4 tokens/s, "
        "Running: 2 reqs, Waiting: 1 reqs, KV cache usage: 25.0%, Prefix cache hit rate: 75.0%"
    )


def test_the_log_line_tells_swapped_requests_where_there_is_a_swap_space(engine: FakeEngine, metrics: Metrics) -> None:
    engine.numbers |= {"num_running": 2, "num_swapped": 1, "num_swap_blocks": 8, "num_free_swap_blocks": 4}
    assert "Running: 2 reqs, Swapped: 1 reqs, Waiting: 0 reqs" in metrics.log_line()


def test_an_idle_server_says_so_once(engine: FakeEngine, metrics: Metrics) -> None:
    engine.numbers["num_running"] = 1
    assert metrics.log_line()
    engine.numbers["num_running"] = 0
    assert "Running: 0 reqs" in metrics.log_line()
    assert metrics.log_line() == metrics.log_line() == ""
    engine.numbers["num_generated_tokens"] = 5
    assert metrics.log_line()


def test_throughput_is_taken_over_five_seconds_at_least(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("quire.server.metrics.time.monotonic", lambda: now)
    metrics = Metrics("m", "vllm:", engine)
    name = "vllm:avg_generation_throughput_toks_per_s"
    engine.numbers["num_generated_tokens"] = 600
    now += 1
    assert read(metrics, name) == 0
    now += 5
    assert read(metrics, name) == 100
    now += 4
    assert read(metrics, name) == 100
    now += 1
    assert read(metrics, name) == 0


def test_a_token_costs_less_than_a_microsecond(metrics: Metrics) -> None:
    """The best of several rounds: the machine may be busy with something else."""
    rounds = timeit.repeat(lambda: metrics.tokens(16, 0.0123), number=2000, repeat=20)
    assert min(rounds) / 2000 / 16 < 1e-6
    rounds = timeit.repeat(lambda: metrics.tokens(1, 0.0123), number=2000, repeat=20)
    assert min(rounds) / 2000 < 2e-6, "even where every token comes alone"


def test_a_scrape_costs_little(metrics: Metrics) -> None:
    assert min(timeit.repeat(lambda: metrics.render(""), number=5, repeat=5)) / 5 < 0.05


def dashboard() -> dict[str, Any]:
    path = Path(next(iter(quire.__path__))) / "server" / "grafana.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def expressions() -> list[str]:
    panels = dashboard()["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return found + [
        variable["query"]["query"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"
    ]


def test_every_expression_of_the_dashboard_names_a_metric_that_is_exported(metrics: Metrics) -> None:
    metrics.refused("queue_full")
    exported = {name for name, _, _ in samples(metrics)}
    for expression in expressions():
        named = re.findall(r"\b(?:vllm|quire):\w+", expression.replace("${prefix}", "vllm:"))
        assert named, expression
        assert set(named) <= exported, expression


def test_the_dashboard_shows_what_was_asked_for() -> None:
    titles = " ".join(panel["title"] for panel in dashboard()["panels"]).lower()
    for subject in ("running", "first token", "between tokens", "end to end", "tokens per second", "kv"):
        assert subject in titles
    for subject in ("preemptions", "prefix cache", "refused"):
        assert subject in titles


def test_the_panels_of_the_dashboard_do_not_overlap_and_fill_rows() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
