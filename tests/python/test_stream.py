"""LLM.stream and LLM.chat: pieces as they come add up to what generate returns."""

import gc
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from quire import LLM, SamplingParams

PARAMS = SamplingParams(seed=3, max_tokens=40, ignore_eos=True, logprobs=2, prompt_logprobs=1)


def wait_until_idle(llm: LLM) -> None:
    deadline = time.monotonic() + 2.0
    while llm.llm_engine.has_unfinished_requests() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not llm.llm_engine.has_unfinished_requests()


def test_pieces_add_up_to_the_whole(llm: LLM) -> None:
    (whole,) = llm.generate("Once", PARAMS, use_tqdm=False)
    pieces = list(llm.stream("Once", PARAMS))
    assert len(pieces) > 5
    assert [piece.finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    completions = [completion for piece in pieces for completion in piece.outputs]
    expected = whole.outputs[0]
    assert "".join(completion.text for completion in completions) == expected.text
    assert sum((completion.token_ids for completion in completions), []) == expected.token_ids
    assert sum((completion.logprobs or [] for completion in completions), []) == expected.logprobs
    assert pieces[0].prompt_logprobs == whole.prompt_logprobs
    assert [piece.prompt_logprobs for piece in pieces[1:]] == [None] * (len(pieces) - 1)
    last = pieces[-1].outputs[-1]
    assert (last.finish_reason, last.cumulative_logprob) == ("length", expected.cumulative_logprob)


def test_completions_of_one_prompt_are_told_apart_by_index(llm: LLM) -> None:
    params = SamplingParams(n=3, seed=1, max_tokens=10, ignore_eos=True)
    whole = llm.generate("Once", params, use_tqdm=False)[0].outputs
    joined: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for piece in llm.stream("Once", params):
        for completion in piece.outputs:
            joined[completion.index] += completion.token_ids
    assert joined == {completion.index: completion.token_ids for completion in whole}


@pytest.mark.parametrize("prompt", ["Once", {"prompt": "Once"}, [5, 6, 7], {"prompt_token_ids": [5, 6, 7]}])
def test_a_prompt_has_the_forms_of_generate(llm: LLM, prompt: Any) -> None:
    assert list(llm.stream(prompt, SamplingParams(max_tokens=2)))[-1].finished


def test_errors_come_at_the_call(llm: LLM) -> None:
    with pytest.raises(ValueError, match="takes one prompt, got 2"):
        llm.stream(["a", "b"])
    with pytest.raises(ValueError, match=r"prompts\[0\]"):
        llm.stream([1] * 256)
    with pytest.raises(NotImplementedError, match="best_of"):
        llm.stream("a", SamplingParams(best_of=2))


LONG = SamplingParams(max_tokens=None, ignore_eos=True)


def test_leaving_the_block_cancels(llm: LLM) -> None:
    with llm.stream("a", LONG) as pieces:
        next(pieces)
    wait_until_idle(llm)
    assert list(pieces) == []


def test_dropping_it_cancels(llm: LLM) -> None:
    pieces = llm.stream("a", LONG)
    next(pieces)
    del pieces
    gc.collect()
    wait_until_idle(llm)


def test_two_streams_may_be_read_in_turn(llm: LLM) -> None:
    expected = [llm.generate(prompt, PARAMS, use_tqdm=False)[0].outputs[0].text for prompt in ("a", "b")]
    joined = ["", ""]
    for both in zip(llm.stream("a", PARAMS), llm.stream("b", PARAMS), strict=False):
        for number, piece in enumerate(both):
            joined[number] += "".join(completion.text for completion in piece.outputs)
    assert expected[0].startswith(joined[0][:10])
    assert expected[1].startswith(joined[1][:10])


CONVERSATION = [{"role": "user", "content": "Hello"}]


def test_chat_renders_the_template_and_adds_no_second_special_token(llm: LLM) -> None:
    (output,) = llm.chat(CONVERSATION, SamplingParams(max_tokens=3), use_tqdm=False)
    assert output.prompt == "<s>[user] Hello\n[assistant] "
    assert output.prompt_token_ids.count(tiny.BOS) == 1


def test_chat_takes_one_conversation_or_many(llm: LLM) -> None:
    other = [{"role": "system", "content": "Be brief."}, *CONVERSATION]
    outputs = llm.chat([CONVERSATION, other], SamplingParams(max_tokens=3), use_tqdm=False)
    assert [output.prompt for output in outputs] == [
        "<s>[user] Hello\n[assistant] ",
        "<s>[system] Be brief.\n[user] Hello\n[assistant] ",
    ]


def test_chat_takes_another_template(llm: LLM) -> None:
    template = "{{ messages[0]['content'] }}{{ extra }}"
    params = SamplingParams(max_tokens=1)
    options: dict[str, Any] = {"chat_template": template, "chat_template_kwargs": {"extra": "!"}, "use_tqdm": False}
    assert llm.chat(CONVERSATION, params, **options)[0].prompt == "Hello!"


def test_chat_without_a_template_says_so(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path, chat_template=None)
    with LLM(str(folder), kv_cache_memory_bytes=1 << 20) as opened, pytest.raises(ValueError, match="chat template"):
        opened.chat(CONVERSATION)
