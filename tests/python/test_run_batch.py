"""`quire run-batch`: a line for every request, in order, and no bad line that loses another."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FIXED = {"temperature": 0, "max_tokens": 5, "ignore_eos": True}


@pytest.fixture
def model(tiny_llama: Path) -> list[str]:
    return ["--model", str(tiny_llama), "--served-model-name", "tiny", "--kv-cache-memory-bytes", "2M"]


def line(custom_id: Any, body: Any, url: Any = "/v1/completions", method: Any = "POST") -> str:
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": body})


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text().splitlines()]


def test_completions_and_chats_are_answered_in_order(
    run_quire: Run, model: list[str], tmp_path: Path, llm: LLM
) -> None:
    # Long ones between short ones: they end in another order than they come.
    lengths = [30, 1, 17, 2, 9] * 20
    completions = [
        line(f"r{i}", {"model": "tiny", "prompt": "The", **FIXED, "max_tokens": n}) for i, n in enumerate(lengths)
    ]
    chat = line(
        "chat", {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **FIXED}, "/v1/chat/completions"
    )
    (tmp_path / "in").write_text("\n".join([*completions, chat]))
    result = run_quire("run-batch", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--disable-tqdm", *model)
    assert (result.returncode, result.stderr) == (0, "101 of 101 requests answered\n")
    found = answers(tmp_path / "out")
    assert [one["custom_id"] for one in found] == [*(f"r{i}" for i in range(100)), "chat"]
    assert {one["response"]["status_code"] for one in found} == {200}
    assert {one["error"] for one in found} == {None}
    assert len({one["id"] for one in found}) == 101
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    assert (
        found[0]["response"]["body"]["choices"][0]["text"]
        == llm.generate("The", params, use_tqdm=False)[0].outputs[0].text
    )
    assert [one["response"]["body"]["usage"]["completion_tokens"] for one in found[:100]] == lengths
    chatted = llm.chat([{"role": "user", "content": "Hi"}], SamplingParams(**FIXED), use_tqdm=False)
    assert found[-1]["response"]["body"]["choices"][0]["message"]["content"] == chatted[0].outputs[0].text


GOOD = {"model": "tiny", "prompt": "The", **FIXED}

BAD: list[tuple[str, int, str]] = [
    ("not json", 400, "not JSON"),
    ("[" * 100_000, 400, "not JSON"),
    ("[1]", 400, "not a JSON object"),
    (line(None, GOOD), 400, "custom_id must be a text"),
    (line("", GOOD), 400, "custom_id must be a text"),
    (line("first", GOOD), 400, "custom_id='first' is there twice"),
    (line("x1", GOOD, method="GET"), 400, "method must be 'POST', got 'GET'"),
    (line("x2", GOOD, url="/v1/embeddings"), 400, "url must be /v1/completions or"),
    (line("x3", GOOD, url=["/v1/completions"]), 400, "url must be"),
    (line("x4", "body"), 400, "body must be an object"),
    (line("x5", {**GOOD, "stream": True}), 400, "stream is not offered in a batch"),
    (line("x6", {**GOOD, "model": "gpt-4"}), 404, "`gpt-4` does not exist"),
    (line("x7", {**GOOD, "temperature": -1}), 400, "temperature must be non-negative"),
    (line("x8", {**GOOD, "max_tokens": 10**9}), 400, "maximum context length"),
    (line("x9", {**GOOD, "prompt": []}), 400, "prompt"),
    (line("x10", {**GOOD, "prompt": "z" * 5000}), 400, "context"),
    (line("x11", {**GOOD, "temperature": float("nan")}), 400, "NaN"),
    (line("x12", {"model": "tiny", "messages": []}, "/v1/chat/completions"), 400, "messages"),
    (line("\ud800", {**GOOD, "n": 0}), 400, "n must be at least 1"),
]


def test_no_bad_line_loses_another(run_quire: Run, model: list[str], tmp_path: Path) -> None:
    everything = [line("first", GOOD), *(bad for bad, _, _ in BAD), line("last", GOOD)]
    (tmp_path / "in").write_text("\n".join(everything))
    result = run_quire("run-batch", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--disable-tqdm", *model)
    assert result.returncode == 0
    found = answers(tmp_path / "out")
    assert len(found) == len(BAD) + 2
    assert found[0]["error"] is found[-1]["error"] is None
    assert found[0]["response"]["body"]["choices"] == found[-1]["response"]["body"]["choices"]
    for (_, status, says), one in zip(BAD, found[1:-1], strict=True):
        message = one["error"]["message"]
        assert (one["response"]["status_code"], one["error"]["code"]) == (status, str(status)), message
        assert one["response"]["body"]["error"]["message"] == message
        assert says in message


def test_lines_are_numbered_as_in_the_file(run_quire: Run, model: list[str]) -> None:
    result = run_quire(
        "run-batch", "-i", "-", "-o", "-", "--disable-tqdm", *model, input=f"\n\n{line('a', GOOD)}\nbad\n"
    )
    good, bad = map(json.loads, result.stdout.splitlines())
    assert good["custom_id"] == "a"
    assert bad["custom_id"] is None
    assert bad["error"]["message"].startswith("line 4: not JSON")
    assert result.stderr.endswith("1 of 2 requests answered, 1 failed\n")


def test_a_batch_of_failures_fails(run_quire: Run, model: list[str]) -> None:
    assert run_quire("run-batch", "-i", "-", "-o", "-", *model, input="bad\n").returncode == 1
    assert run_quire("run-batch", "-i", "-", "-o", "-", *model, input="").returncode == 0


def test_mistakes_are_told_before_anything_is_written(run_quire: Run, model: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").write_text(line("a", GOOD))
    (tmp_path / "old").write_text("old")
    wrong = [
        (["-i", "{in}"], 2, "-o/--output-file"),
        (["-i", "{in}", "-o", "{in}"], 2, "would overwrite the input"),
        (["-i", "{none}", "-o", "{old}"], 1, "none: No such file"),
        (["-i", "{in}", "-o", "{old}", "--chat-template", "{none}"], 1, "none: No such file"),
        (["-i", "{in}", "-o", "{old}", "--model", "{none}"], 1, "none' is not a folder"),
        (["-i", "{in}", "-o", "{old}", "--max-num-seqs", "0"], 2, "max_num_seqs must be at least 1"),
        (["-i", "{in}", "-o", "{none}/out"], 1, "none/out: No such file"),
    ]
    names = {name: str(tmp_path / name) for name in ("in", "old", "none")}
    for words, status, says in wrong:
        filled = [word.format(**names) for word in words]
        result = run_quire("run-batch", *filled, *(model if "--model" not in words else []))
        assert (result.returncode, result.stderr.count("\n")) == (status, 1), result.stderr
        assert says in result.stderr
    assert (tmp_path / "old").read_text() == "old"
