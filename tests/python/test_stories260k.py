"""A real model, through Python, against the outputs that a reference computed in float32."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams


@pytest.fixture(scope="module")
def golden(stories260k: Path) -> list[dict[str, Any]]:
    return list(json.loads((stories260k / "golden.json").read_text()))


@pytest.fixture(scope="module")
def stories(stories260k: Path) -> Iterator[LLM]:
    with LLM(str(stories260k), kv_cache_memory_bytes=16 << 20) as opened:
        yield opened


PARAMS = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True, logprobs=0)


def check(output: Any, expected: dict[str, Any]) -> None:
    (completion,) = output.outputs
    assert output.prompt_token_ids == expected["prompt_token_ids"]
    assert completion.token_ids == expected["greedy_token_ids"]
    assert completion.text == expected["greedy_text"]
    logprobs = [one[token].logprob for one, token in zip(completion.logprobs, completion.token_ids, strict=True)]
    # The tolerance is the golden file's own: float32 on another machine.
    assert logprobs == pytest.approx(expected["logprobs"], abs=1e-3)


def test_greedy_text_and_logprobs_are_the_references_one_by_one(stories: LLM, golden: list[dict[str, Any]]) -> None:
    for expected in golden:
        check(stories.generate(expected["prompt"], PARAMS, use_tqdm=False)[0], expected)


def test_greedy_text_and_logprobs_are_the_references_all_at_once(stories: LLM, golden: list[dict[str, Any]]) -> None:
    outputs = stories.generate([expected["prompt"] for expected in golden] * 3, PARAMS, use_tqdm=False)
    for output, expected in zip(outputs, golden * 3, strict=True):
        check(output, expected)


def test_streamed_text_is_the_references(stories: LLM, golden: list[dict[str, Any]]) -> None:
    for expected in golden:
        text = "".join(piece.outputs[0].text for piece in stories.stream(expected["prompt"], PARAMS) if piece.outputs)
        assert text == expected["greedy_text"]


def test_text_that_continues_the_prompt_keeps_its_first_space(stories: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, text_continues_prompt=True)
    output = stories.generate("The capital of France is", params, use_tqdm=False)[0]
    alone = stories.get_tokenizer().decode(output.outputs[0].token_ids)
    assert output.outputs[0].text == " " + alone


@pytest.mark.parametrize("mode", ["auto", "slow"])
def test_both_tokenizer_files_give_the_same_ids(stories260k: Path, golden: list[dict[str, Any]], mode: str) -> None:
    with LLM(str(stories260k), tokenizer_mode=mode, kv_cache_memory_bytes=4 << 20) as opened:
        for expected in golden:
            assert list(opened.get_tokenizer().encode(expected["prompt"])) == expected["prompt_token_ids"]
