"""`quire bench ...`: vLLM's names in the results, numbers that add up, times that are those of arrival."""

import json
import math
import random
import statistics
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.commands import bench
from quire.commands.bench_data import DataFlags, Sample, samples
from quire.commands.bench_plot import Panel, draw, rate_over_time, shares, ticks
from quire.commands.bench_serve import metrics
from quire.commands.bench_streams import Answer, read_answer
from server_process import running_server

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    words = [str(tiny_llama), "--served-model-name", "tiny", "--kv-cache-memory-bytes", "4M"]
    with running_server(tmp_path_factory.mktemp("server"), *words) as running:
        yield running.url


@pytest.fixture
def model(tiny_llama: Path) -> list[str]:
    return ["--model", str(tiny_llama), "--kv-cache-memory-bytes", "4M"]


def num_lines(path: Path) -> int:
    """How many lines the picture shows."""
    return len(ElementTree.parse(path).findall(".//{http://www.w3.org/2000/svg}polyline"))


def test_latency_reports_as_vllm_does(run_quire: Run, model: list[str], tmp_path: Path) -> None:
    out, plot = tmp_path / "latency.json", tmp_path / "latency.svg"
    words = [
        "--num-iters",
        "4",
        "--num-iters-warmup",
        "1",
        "--batch-size",
        "2",
        "--input-len",
        "8",
        "--output-len",
        "4",
    ]
    result = run_quire("bench", "latency", *model, *words, "--output-json", str(out), "--plot", str(plot))
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())
    assert len(found["latencies"]) == 4
    assert found["avg_latency"] == statistics.fmean(found["latencies"])
    assert list(found["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
    assert found["percentiles"]["50"] == statistics.median(found["latencies"])
    assert f"Avg latency: {found['avg_latency']} seconds\n" in result.stdout
    assert "99% percentile latency" in result.stdout
    assert num_lines(plot) == 1


def test_throughput_counts_every_token(run_quire: Run, model: list[str], tmp_path: Path) -> None:
    out, plot = tmp_path / "throughput.json", tmp_path / "throughput.svg"
    words = ["--num-prompts", "6", "--input-len", "10", "--output-len", "7", "--n", "2"]
    result = run_quire("bench", "throughput", *model, *words, "--output-json", str(out), "--plot", str(plot))
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())
    assert (found["num_requests"], found["total_num_tokens"]) == (6, 6 * 10 + 6 * 2 * 7)
    assert found["tokens_per_second"] == pytest.approx(found["total_num_tokens"] / found["elapsed_time"])
    assert found["requests_per_second"] == pytest.approx(6 / found["elapsed_time"])
    assert "total tokens/s" in result.stdout
    assert num_lines(plot) == 2


OF_VLLM = {
    "date", "backend", "model_id", "tokenizer_id", "num_prompts", "request_rate", "burstiness", "max_concurrency",
    "duration", "completed", "total_input_tokens", "total_output_tokens", "request_throughput", "output_throughput",
    "total_token_throughput", "failed", "max_concurrent_requests",
    *(f"{key}_{name}_ms" for key in ("mean", "median", "std", "p99") for name in ("ttft", "tpot", "itl", "e2el")),
}  # fmt: skip

DETAILS = {"input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors", "start_times"}


def test_serve_reports_as_vllm_does(run_quire: Run, server: str, tmp_path: Path) -> None:
    words = ["--num-prompts", "12", "--random-input-len", "20", "--random-output-len", "60", "--max-concurrency", "5"]
    files = ["--save-result", "--save-detailed", "--result-dir", str(tmp_path), "--plot", str(tmp_path / "plot.svg")]
    result = run_quire("bench", "serve", "--url", server, *words, *files)
    assert result.returncode == 0, result.stderr
    (file,) = tmp_path.glob("openai-infqps-concurrency5-tiny-*.json")
    found = json.loads(file.read_text())
    assert set(found) >= OF_VLLM | DETAILS
    assert (found["completed"], found["failed"], found["model_id"]) == (12, 0, "tiny")
    # The tokenizer puts one token in front of a text, but not of ids.
    assert found["total_input_tokens"] == 12 * 20
    assert found["total_output_tokens"] == 12 * 60
    assert found["output_throughput"] == pytest.approx(12 * 60 / found["duration"])
    assert 1 <= found["max_concurrent_requests"] <= 5
    assert found["output_lens"] == [60] * 12
    for ttft, itls, start in zip(found["ttfts"], found["itls"], found["start_times"], strict=True):
        assert 0 < ttft < found["duration"]
        assert len(itls) <= 59
        assert 0 <= start <= found["duration"]
    for line in ("Successful requests:", "Mean TTFT (ms):", "P99 TPOT (ms):", "Median ITL (ms):"):
        assert line in result.stdout
    # A busy machine may bring each answer in one piece, and then there is nothing between tokens.
    assert num_lines(tmp_path / "plot.svg") == (4 if any(found["itls"]) else 3)


def test_serve_measures_chat_and_rates(run_quire: Run, server: str, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    words = ["--backend", "openai-chat", "--num-prompts", "5", "--request-rate", "50", "--output-json", str(out)]
    shown = ["--percentile-metrics", "ttft,e2el", "--metric-percentiles", "50,90", "--disable-tqdm"]
    result = run_quire("bench", "serve", "--url", server, *words, *shown, "--random-input-len", "30")
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())
    assert (found["completed"], found["request_rate"]) == (5, 50)
    assert "P90 E2EL (ms):" in result.stdout
    assert "TPOT" not in result.stdout
    assert found["p50_ttft_ms"] == pytest.approx(found["median_ttft_ms"])
    assert "generated_texts" not in found


def test_serve_tells_once_what_is_wrong_with_all_requests(run_quire: Run, server: str) -> None:
    wrong = [
        (["--model", "other"], 1, "`other` does not exist"),
        (["--random-input-len", "300"], 2, "more than the context of 256"),
        (["--request-rate", "0"], 2, "request_rate must be above 0"),
        (["--percentile-metrics", "ttft,speed"], 2, "percentile_metrics must be some of"),
        (["--metric-percentiles", "101"], 2, "metric_percentiles must be numbers in"),
        (["--dataset-name", "sharegpt"], 2, "dataset_path must be given"),
        (["--dataset-name", "custom", "--dataset-path", "/none"], 1, "/none: No such file"),
        (["--plot", "x.png"], 2, "plot must end in .svg"),
        (["--endpoint", "/v1/embeddings"], 2, "endpoint must be one of"),
        (["--host", "127.0.0.1", "--port", "9"], 1, "127.0.0.1:9 cannot be reached"),
    ]
    for words, status, says in wrong:
        result = run_quire("bench", "serve", "--url", server, "--num-prompts", "3", *words)
        assert (result.returncode, result.stderr.count("\n")) == (status, 1), result.stderr
        assert says in result.stderr


def test_bench_has_help_of_its_own(run_quire: Run) -> None:
    for words, status in ((["bench"], 2), (["bench", "--help"], 0)):
        result = run_quire(*words)
        assert result.returncode == status
        for name in ("latency", "throughput", "serve"):
            assert f"quire bench {name} " in result.stdout
    assert "did you mean bench latency" in run_quire("bench", "latncy").stderr
    assert "--num-iters-warmup N" in run_quire("bench", "latency", "--help").stdout


def recording(*events: tuple[float, str], chunked: bool = True) -> list[tuple[float, bytes]]:
    """What arrives of a stream: text and the time at which it comes."""
    head = b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n" if chunked else b"") + b"\r\n"
    parts = [(events[0][0], head)]
    for at, text in events:
        data = text.encode()
        parts.append((at, b"%x\r\n%s\r\n" % (len(data), data) if chunked else data))
    return [*parts, (events[-1][0], b"0\r\n\r\n" if chunked else b"")]


def event(text: str, **more: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "text": text}], **more}) + "\n\n"


USAGE = {"usage": {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}}
END = "data: " + json.dumps({"choices": [], **USAGE}) + "\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("chunked", [True, False])
def test_times_are_those_of_arrival(chunked: bool) -> None:
    parts = recording(
        (10.5, event("")), (11.0, event("a")), (11.25, event("b") + event("c")), (12.0, event("d")), (13.0, END),
        chunked=chunked,
    )  # fmt: skip
    answer = read_answer(parts, 10.0, 3.0, None)
    assert answer == Answer(3.0, 1.0, [0.25, 0.0, 0.75], 2.0, 4, 6, "abcd", "")
    assert answer.tpot == pytest.approx(1.0 / 5)


def test_an_answer_is_the_same_however_it_is_cut() -> None:
    whole = b"".join(data for _, data in recording((0, event("ä")), (0, event("b")), (0, END)))
    generator = random.Random(5)
    for _ in range(200):
        cuts = sorted(generator.sample(range(1, len(whole)), 6))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        answer = read_answer([(1.0 + index, piece) for index, piece in enumerate(pieces)], 0.0, 0.0, None)
        assert (answer.text, answer.error, answer.num_output) == ("äb", "", 6)
        # An event is there when its last byte is.
        end_of_first = whole.index(b"\n\n") + 2
        assert answer.ttft == 1.0 + next(
            i for i, _ in enumerate(pieces) if sum(map(len, pieces[: i + 1])) >= end_of_first
        )


FAILED = [
    ([], None, "closed the connection without an answer"),
    ([], ConnectionRefusedError("refused"), "connection: refused"),
    (recording((1, event("a"))), None, "ended in the middle"),
    (recording((1, END)), None, "has no text"),
    (recording((1, event("a") + 'data: {"error": {"message": "broke"}}\n\n')), None, "broke"),
    (recording((1, "data: [1]\n\n")), None, "no JSON object"),
    ([(1.0, b'HTTP/1.1 429 No\r\n\r\n{"error": {"message": "full"}}')], None, "429: full"),
    ([(1.0, b"HTTP/1.1 500 No\r\n\r\noh")], None, "500: the server answered with status 500"),
]


@pytest.mark.parametrize(("parts", "problem", "says"), FAILED)
def test_failures_are_noted(parts: list[tuple[float, bytes]], problem: Exception | None, says: str) -> None:
    assert says in read_answer(parts, 0.0, 0.0, problem).error


def test_failed_requests_count_nowhere() -> None:
    good = Answer(0.0, 0.1, [0.2, 0.3], 0.6, 10, 3, "abc", "")
    numbers = metrics([good, Answer(error="no")], 2.0, [99])
    assert (numbers["completed"], numbers["failed"], numbers["total_output_tokens"]) == (1, 1, 3)
    assert numbers["mean_ttft_ms"] == pytest.approx(100)
    assert numbers["mean_tpot_ms"] == pytest.approx(250)
    assert numbers["median_itl_ms"] == pytest.approx(250)
    assert metrics([Answer(error="no")], 1.0, [99])["p99_ttft_ms"] == 0.0


def test_percentiles_are_numpys() -> None:
    generator = random.Random(1)
    for size in (1, 2, 3, 10, 101):
        values = [generator.random() for _ in range(size)]
        for share in (0, 1, 50, 90, 99.9, 100):
            assert bench.percentile(values, share) == pytest.approx(float(np.percentile(values, share)))
    assert math.isnan(bench.percentile([], 50))


def words_of(text: str) -> list[int]:
    return list(range(len(text.split())))


def test_random_prompts_depend_on_the_seed_alone_and_keep_to_their_lengths() -> None:
    flags = DataFlags(num_prompts=50, random_input_len=20, random_output_len=10, random_range_ratio=0.5, seed=3)
    drawn = samples(flags, words_of, range(100, 200), 256)
    assert drawn == samples(flags, words_of, range(100, 200), 256)
    assert {len(one.prompt) for one in drawn} <= set(range(10, 31))
    assert all(len(one.prompt) == one.num_input and 5 <= one.num_output <= 15 for one in drawn)
    assert len({tuple(one.prompt) for one in drawn}) == 50
    flags.random_prefix_len = 7
    assert len({tuple(one.prompt[:7]) for one in samples(flags, words_of, range(100, 200), 256)}) == 1


def test_lengths_fit_the_context_unless_they_are_given() -> None:
    assert DataFlags().lengths(None) == (1024, 128)
    assert DataFlags().lengths(256) == (128, 32)
    with pytest.raises(ValueError, match="random_input_len=200 and random_output_len=100.*context of 256"):
        DataFlags(random_input_len=200, random_output_len=100).lengths(256)


def test_sharegpt_and_own_files_are_read(tmp_path: Path) -> None:
    def talk(*texts: str) -> dict[str, Any]:
        return {"conversations": [{"from": "x", "value": text} for text in texts]}

    path = tmp_path / "sharegpt.json"
    long = "word " * 1100
    talks = [
        talk("one two three four", "five six seven eight nine"),
        talk("short", "a b c d e"),
        talk(long, long),
        talk("x"),
    ]
    path.write_text(json.dumps(talks))
    flags = DataFlags(dataset_name="sharegpt", dataset_path=str(path), num_prompts=3)
    assert samples(flags, words_of, [], None) == [Sample("one two three four", 4, 5)] * 3
    path.write_text('{"prompt": "a b", "output_tokens": 9}\n\n{"prompt": "c"}\n')
    flags = DataFlags(dataset_name="custom", dataset_path=str(path), num_prompts=2, custom_output_len=4)
    assert samples(flags, words_of, [], None) == [Sample("a b", 2, 9), Sample("c", 1, 4)]
    for content in ('{"prompt": 5}', "text", '{"prompt": "a", "output_tokens": 0}', ""):
        path.write_text(content)
        with pytest.raises(ValueError, match="line 1 is not|no usable prompt"):
            samples(flags, words_of, [], None)


def test_ticks_are_round_and_enclose() -> None:
    for least, most in ((0, 1), (0, 0.0037), (0, 98765), (0, 0), (5, 5), (0, 100), (-3, 3)):
        found = ticks(least, most)
        assert found[0] <= least
        assert found[-1] >= most
        assert 2 <= len(found) <= 8
        steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in zip(found, found[1:], strict=False)}
        assert steps == {1.0}


def test_plots_are_svg_whatever_was_measured() -> None:
    panels = [shares("a < b & c", "ms", [3, 1, 2]), shares("none", "ms", []), rate_over_time("r", "e", [0.1, 0.2]),
              rate_over_time("none", "e", []), Panel("one", "x", "y", [(1, 1)])]  # fmt: skip
    tree = ElementTree.fromstring(draw("<title>", panels))
    assert "a < b & c" in "".join(tree.itertext())
    third = 100 / 3
    steps = [(1, 0), (1, third), (2, third), (2, 2 * third), (3, 2 * third), (3, 100)]
    assert shares("", "", [3, 1, 2]).points == [(x, pytest.approx(y)) for x, y in steps]
    assert sum(rate for _, rate in rate_over_time("", "", [0.5, 1.0, 2.0], 4).points) * 0.5 == 3
