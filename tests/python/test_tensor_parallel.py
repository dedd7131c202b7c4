"""A model that two ranks compute together, through Python and the command line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams, _core

Run = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def two_devices(device: str) -> None:
    if {kind.name: kind.num_devices for kind in _core.Engine.devices()}.get(device, 0) < 2 and device != "cpu":
        pytest.skip("one GPU")


@pytest.fixture(scope="module")
def pair(tiny_llama: Path) -> Iterator[LLM]:
    with LLM(str(tiny_llama), tensor_parallel_size=2, kv_cache_memory_bytes=4 << 20) as opened:
        yield opened


def test_real_text_is_the_references(stories260k: Path) -> None:
    golden = json.loads((stories260k / "golden.json").read_text())
    params = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True, logprobs=0)
    with LLM(str(stories260k), tensor_parallel_size=2, kv_cache_memory_bytes=16 << 20) as stories:
        outputs = stories.generate([expected["prompt"] for expected in golden], params, use_tqdm=False)
    for output, expected in zip(outputs, golden, strict=True):
        (completion,) = output.outputs
        assert completion.text == expected["greedy_text"]
        logprobs = [one[token].logprob for one, token in zip(completion.logprobs, completion.token_ids, strict=True)]
        assert logprobs == pytest.approx(expected["logprobs"], abs=1e-3)


def test_seeds_samples_and_logprobs_are_those_of_one_rank(llm: LLM, pair: LLM) -> None:
    params = SamplingParams(
        n=3, temperature=0.9, top_p=0.9, seed=7, max_tokens=30, ignore_eos=True, logprobs=3, prompt_logprobs=2
    )
    prompts = ["Once upon a time", "The", "A quite different beginning of a story"]
    for own, one in zip(
        pair.generate(prompts, params, use_tqdm=False), llm.generate(prompts, params, use_tqdm=False), strict=True
    ):
        for left, right in zip(own.outputs, one.outputs, strict=True):
            assert left.token_ids == right.token_ids
            assert left.text == right.text
            assert left.cumulative_logprob == pytest.approx(right.cumulative_logprob, abs=1e-3)
            assert [set(row) for row in left.logprobs] == [set(row) for row in right.logprobs]
        for left_row, right_row in zip(own.prompt_logprobs[1:], one.prompt_logprobs[1:], strict=True):
            assert {t: v.logprob for t, v in left_row.items()} == pytest.approx(
                {t: v.logprob for t, v in right_row.items()}, abs=1e-4
            )


def test_streams_and_cancelled_requests_leave_it_usable(pair: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    whole = pair.generate("once more", params, use_tqdm=False)[0].outputs[0].text
    stream = pair.stream("once more", SamplingParams(max_tokens=None, ignore_eos=True))
    next(stream)
    stream.close()
    assert "".join(piece.outputs[0].text for piece in pair.stream("once more", params) if piece.outputs) == whole


def test_info_tells_what_each_rank_has(run_quire: Run, tiny_llama: Path, device: str) -> None:
    one = json.loads(run_quire("info", str(tiny_llama), "--json").stdout)
    two = json.loads(run_quire("info", str(tiny_llama), "-tp", "2", "--json").stdout)
    assert (one["tensor_parallel_size"], two["tensor_parallel_size"]) == (1, 2)
    assert two["backend"] == one["backend"] + ", 2 ranks"
    assert two["num_parameters"] == one["num_parameters"]
    assert two["kv_bytes_per_token"] * 2 == one["kv_bytes_per_token"]
    assert two["weight_bytes"] < one["weight_bytes"]
    # GPUs have room for what they send each other, and it is in the plan.
    assert (two["workspace_bytes"] - one["workspace_bytes"] > 16 << 20) == (device != "cpu")
    assert "ranks        2, of which each has what follows" in run_quire("info", str(tiny_llama), "-tp", "2").stdout


def test_the_command_line_generates_the_same(run_quire: Run, tiny_llama: Path) -> None:
    words = ["generate", "a", "--model", str(tiny_llama), "--temperature", "0", "--max-tokens", "12"]
    one, two = run_quire(*words), run_quire(*words, "--tensor-parallel-size", "2")
    assert two.returncode == 0, two.stderr
    assert two.stdout == one.stdout


def test_what_cannot_be_cut_is_told_in_one_line(tiny_llama: Path) -> None:
    with pytest.raises(
        ValueError, match=r"num_attention_heads=4, tensor_parallel_size=3: set .* to 1, 2 or 4"
    ) as caught:
        LLM(str(tiny_llama), tensor_parallel_size=3)
    assert "\n" not in str(caught.value)
