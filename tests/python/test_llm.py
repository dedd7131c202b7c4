"""LLM.generate on a tiny random model: outputs, order, parameters."""

import io
import time
from pathlib import Path

import pytest

import tiny
from quire import LLM, CompletionOutput, EngineArgs, RequestOutput, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["Once upon a time", "The", "a", "In the middle of the night", "x" * 60]


def texts(outputs: list[RequestOutput]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def ids(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def test_output_has_the_fields_of_vllm(llm: LLM) -> None:
    before = time.time()
    (output,) = llm.generate("The", GREEDY, use_tqdm=False)
    assert (output.prompt, output.finished, output.lora_request, output.error) == ("The", True, None, None)
    assert output.request_id.isdigit()
    assert output.prompt_token_ids[0] == tiny.BOS
    assert output.prompt_logprobs is None
    (completion,) = output.outputs
    assert isinstance(completion, CompletionOutput)
    assert (completion.index, len(completion.token_ids), completion.logprobs) == (0, 12, None)
    assert (completion.finish_reason, completion.stop_reason, completion.lora_request) == ("length", None, None)
    assert completion.finished()
    assert completion.cumulative_logprob is not None
    assert completion.cumulative_logprob < 0
    metrics = output.metrics
    assert metrics is not None
    times = [
        before - 1.0,
        metrics.arrival_time,
        metrics.first_scheduled_time,
        metrics.first_token_time,
        metrics.last_token_time,
        metrics.finished_time,
        time.time() + 1.0,
    ]
    assert times == sorted(times, key=float)
    assert metrics.time_in_queue is not None
    assert metrics.time_in_queue >= 0


def test_outputs_come_in_the_order_of_prompts_and_equal_those_alone(llm: LLM) -> None:
    together = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert [output.prompt for output in together] == PROMPTS
    alone = [llm.generate(prompt, GREEDY, use_tqdm=False)[0] for prompt in PROMPTS]
    assert ids(together) == ids(alone)
    assert texts(together) == texts(alone)
    assert len({tuple(one) for one in ids(together)}) > 1


def test_text_is_the_tokenizers_decode_of_the_ids(llm: LLM) -> None:
    for output in llm.generate(PROMPTS, GREEDY, use_tqdm=False):
        completion = output.outputs[0]
        assert completion.text == llm.get_tokenizer().decode(completion.token_ids)


def test_all_forms_of_one_prompt_give_one_output(llm: LLM) -> None:
    token_ids = llm.get_tokenizer().encode("The")
    expected = ids(llm.generate("The", GREEDY, use_tqdm=False))
    for prompts in (["The"], {"prompt": "The"}, {"prompt_token_ids": token_ids}, token_ids, [token_ids]):
        assert ids(llm.generate(prompts, GREEDY, use_tqdm=False)) == expected
    by_ids = llm.generate(None, GREEDY, [token_ids], False)
    assert ids(by_ids) == expected
    assert by_ids[0].prompt is None
    labelled = llm.generate(["other text"], GREEDY, [token_ids], False)
    assert ids(labelled) == expected
    assert labelled[0].prompt == "other text"


def test_no_prompts_give_no_outputs(llm: LLM) -> None:
    assert llm.generate([]) == []


def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (1, 5, 3)]
    outputs = llm.generate(["The"] * 3, params, use_tqdm=False)
    assert [len(one) for one in ids(outputs)] == [1, 5, 3]
    assert ids(outputs)[1][:3] == ids(outputs)[2]


def test_default_parameters_are_vllms(llm: LLM) -> None:
    (output,) = llm.generate("The", SamplingParams(ignore_eos=True), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 16
    assert 1 <= len(llm.generate("The", use_tqdm=False)[0].outputs[0].token_ids) <= 16


def test_n_gives_that_many_different_completions(llm: LLM) -> None:
    (output,) = llm.generate("The", SamplingParams(n=4, seed=1, ignore_eos=True), use_tqdm=False)
    assert [completion.index for completion in output.outputs] == [0, 1, 2, 3]
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 4


def test_one_seed_gives_one_text_whatever_runs_beside_it(llm: LLM) -> None:
    params = SamplingParams(seed=5, max_tokens=10, ignore_eos=True)
    alone = ids(llm.generate("The", params, use_tqdm=False))[0]
    beside = ids(llm.generate([*PROMPTS, "The"], params, use_tqdm=False))[-1]
    other = ids(llm.generate("The", SamplingParams(seed=6, max_tokens=10, ignore_eos=True), use_tqdm=False))[0]
    assert alone == beside
    assert alone != other


def test_logprobs_are_one_dict_per_token_with_the_chosen_one_in_it(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=3)
    (completion,) = llm.generate("The", params, use_tqdm=False)[0].outputs
    assert completion.logprobs is not None
    assert len(completion.logprobs) == 5
    for token_id, candidates in zip(completion.token_ids, completion.logprobs, strict=True):
        assert len(candidates) == 3
        assert candidates[token_id].rank == 1
        assert sorted(one.rank for one in candidates.values()) == [1, 2, 3]
        assert candidates[token_id].logprob == max(one.logprob for one in candidates.values())
        assert candidates[token_id].decoded_token is not None
    chosen = [one[token].logprob for one, token in zip(completion.logprobs, completion.token_ids, strict=True)]
    assert completion.cumulative_logprob == pytest.approx(sum(chosen))


def test_logprobs_of_a_sampled_token_are_there_beyond_the_best(llm: LLM) -> None:
    params = SamplingParams(temperature=2.0, seed=3, max_tokens=30, ignore_eos=True, logprobs=1)
    (completion,) = llm.generate("The", params, use_tqdm=False)[0].outputs
    assert completion.logprobs is not None
    assert {len(candidates) for candidates in completion.logprobs} == {1, 2}
    zero = llm.generate("The", SamplingParams(logprobs=0, max_tokens=3, ignore_eos=True), use_tqdm=False)[0].outputs[0]
    assert zero.logprobs is not None
    assert [list(candidates) for candidates in zero.logprobs] == [[token_id] for token_id in zero.token_ids]


def test_prompt_logprobs_start_with_none(llm: LLM) -> None:
    (output,) = llm.generate("The night", SamplingParams(prompt_logprobs=2, max_tokens=1), use_tqdm=False)
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    assert output.prompt_logprobs[0] is None
    for token_id, candidates in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
        assert candidates is not None
        assert token_id in candidates
        assert 2 <= len(candidates) <= 3


def test_stop_strings_and_ids_end_the_text_and_say_which(llm: LLM) -> None:
    full = llm.generate("The", SamplingParams(temperature=0, max_tokens=30, ignore_eos=True), use_tqdm=False)[0]
    text, token_ids = full.outputs[0].text, full.outputs[0].token_ids
    stop = next(
        text[at : at + 3]
        for at in range(5, 20)
        if text.index(text[at : at + 3]) == at and "\ufffd" not in text[: at + 3]
    )
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, stop=["never there", stop])
    (cut,) = llm.generate("The", params, use_tqdm=False)[0].outputs
    assert (cut.finish_reason, cut.stop_reason, cut.text) == ("stop", stop, text[: text.index(stop)])
    params.include_stop_str_in_output = True
    (kept,) = llm.generate("The", params, use_tqdm=False)[0].outputs
    assert kept.text == text[: text.index(stop) + 3]
    by_id = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, stop_token_ids=[token_ids[4]])
    (ended,) = llm.generate("The", by_id, use_tqdm=False)[0].outputs
    assert (ended.finish_reason, ended.stop_reason) == ("stop", token_ids[4])
    assert ended.token_ids == token_ids[: token_ids.index(token_ids[4]) + 1]


def test_end_of_text_token_stops_without_a_stop_reason(llm: LLM) -> None:
    always_end = SamplingParams(logit_bias={tiny.EOS: 100.0})
    (completion,) = llm.generate("The", always_end, use_tqdm=False)[0].outputs
    assert (completion.finish_reason, completion.stop_reason, completion.text) == ("stop", None, "")
    at_least = SamplingParams(logit_bias={tiny.EOS: 100.0}, min_tokens=4)
    (completion,) = llm.generate("The", at_least, use_tqdm=False)[0].outputs
    assert len(completion.token_ids) == 5
    ignored = SamplingParams(logit_bias={tiny.EOS: 100.0}, ignore_eos=True, max_tokens=4, skip_special_tokens=False)
    (completion,) = llm.generate("The", ignored, use_tqdm=False)[0].outputs
    assert (completion.finish_reason, completion.text) == ("length", "</s>" * 4)


def test_the_context_length_ends_a_text(llm: LLM) -> None:
    params = SamplingParams(max_tokens=None, ignore_eos=True)
    (output,) = llm.generate("The", params, use_tqdm=False)
    assert output.outputs[0].finish_reason == "length"
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 256


def test_skip_tokenizer_init_works_without_any_tokenizer(tmp_path: Path, llm: LLM) -> None:
    folder = tiny.make(tmp_path, tokenizer=False)
    with LLM(str(folder), skip_tokenizer_init=True, kv_cache_memory_bytes=1 << 20) as bare:
        assert bare.get_tokenizer() is None
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=1)
        token_ids = llm.get_tokenizer().encode("The")
        (output,) = bare.generate(prompt_token_ids=[token_ids], sampling_params=params, use_tqdm=False)
        assert ids([output]) == ids(llm.generate("The", GREEDY, use_tqdm=False))
        assert output.outputs[0].text == ""
        assert output.outputs[0].logprobs is not None
        assert {one.decoded_token for candidates in output.outputs[0].logprobs for one in candidates.values()} == {None}
        with pytest.raises(ValueError, match="give prompt_token_ids"):
            bare.generate("The")


def test_progress_bar_is_vllms(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], GREEDY)
    shown = capsys.readouterr().err
    assert "Processed prompts: 100%" in shown
    assert "2/2" in shown
    assert "est. speed input:" in shown
    llm.generate(["a", "b"], GREEDY, use_tqdm=False)
    assert capsys.readouterr().err == ""


def test_a_progress_bar_of_ones_own_is_called(llm: LLM) -> None:
    from tqdm import tqdm

    shown = io.StringIO()
    llm.generate(["a"], GREEDY, use_tqdm=lambda **options: tqdm(**options, file=shown))
    assert "Processed prompts: 100%" in shown.getvalue()


def test_the_engine_tells_scripts_what_they_ask_for(llm: LLM, tiny_llama: Path) -> None:
    engine = llm.llm_engine
    assert engine.model_config.max_model_len == 256
    assert engine.get_model_config().get_vocab_size() == 268
    assert engine.model_config.model == str(tiny_llama)
    assert engine.cache_config.block_size == 16
    assert engine.scheduler_config.max_num_seqs == 256
    assert engine.get_tokenizer() is llm.get_tokenizer()
    assert not engine.has_unfinished_requests()


def test_another_tokenizer_can_be_set(llm: LLM) -> None:
    class Backwards:
        def encode(self, text: str) -> list[int]:
            return [3 + ord(letter) % 100 for letter in reversed(text)]

    own = llm.get_tokenizer()
    try:
        llm.set_tokenizer(Backwards())
        assert llm.generate("ab", GREEDY, use_tqdm=False)[0].prompt_token_ids == [3 + 98, 3 + 97]
    finally:
        llm.set_tokenizer(own)


def test_an_llm_can_be_made_from_engine_args(tiny_llama: Path) -> None:
    arguments = EngineArgs(model=str(tiny_llama), max_model_len=64, kv_cache_memory_bytes=1 << 20)
    with LLM.from_engine_args(arguments) as small:
        assert small.llm_engine.model_config.max_model_len == 64
        with pytest.raises(ValueError, match=r"prompts\[0\]"):
            small.generate(prompt_token_ids=[[3] * 64])
