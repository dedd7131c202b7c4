"""generation_config.json: what calls without sampling parameters follow, and how it is switched off."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from quire import LLM, EngineArgs, SamplingParams
from quire.generation_config import recommended_sampling
from summary import tokens_made

RECOMMENDED = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.05,
    "max_new_tokens": 7,
    "max_length": 4096,
    "pad_token_id": 0,
    "bos_token_id": tiny.BOS,
    "eos_token_id": [tiny.EOS, 5],
    "chat_format": "chatml",
}


def write(folder: Path, **fields: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.make(tmp_path / "model", generation_config=RECOMMENDED)


def open_model(model: Path, **arguments: Any) -> LLM:
    return LLM(str(model), kv_cache_memory_bytes=1 << 20, **arguments)


def test_recommended_values_become_the_defaults(model: Path) -> None:
    with open_model(model) as llm:
        expected = SamplingParams(
            temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, repetition_penalty=1.05, max_tokens=7
        )
        assert llm.get_default_sampling_params() == expected


def test_calls_without_parameters_use_them_and_others_do_not(model: Path) -> None:
    with open_model(write(model, temperature=0.0, max_new_tokens=7, eos_token_id=[])) as llm:
        assert len(llm.generate("a", use_tqdm=False)[0].outputs[0].token_ids) == 7
        assert len(llm.chat([{"role": "user", "content": "a"}], use_tqdm=False)[0].outputs[0].token_ids) == 7
        assert sum(len(output.outputs[0].token_ids) for output in llm.stream("a")) == 7
        params = SamplingParams(ignore_eos=True, seed=3)
        before = params.clone()
        assert len(llm.generate("a", params, use_tqdm=False)[0].outputs[0].token_ids) == 16
        assert params == before


def test_vllm_means_neutral_defaults(model: Path) -> None:
    with open_model(model, generation_config="vllm") as llm:
        assert llm.get_default_sampling_params() == SamplingParams()


def test_another_folders_file_can_be_used(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with open_model(model, generation_config=str(write(other, temperature=0.25))) as llm:
        assert llm.get_default_sampling_params() == SamplingParams(temperature=0.25)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"generation_config='.*' has no generation_config\.json"):
        EngineArgs(generation_config=str(tmp_path)).default_sampling()
    with pytest.raises(
        FileNotFoundError, match="generation_config='nowhere' is not a folder; a folder with generation"
    ):
        EngineArgs(generation_config="nowhere").default_sampling()
    with pytest.raises(ValueError, match="generation_config must be the path of a folder, got 3"):
        EngineArgs(generation_config=3)  # type: ignore[arg-type]


def test_no_sampling_means_the_best_token(tmp_path: Path) -> None:
    write(tmp_path, do_sample=False, temperature=0.9, top_p=0.6, repetition_penalty=1.1)
    params = SamplingParams(**recommended_sampling(tmp_path))
    assert params == SamplingParams(temperature=0.0, repetition_penalty=1.1)


def test_fields_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    assert recommended_sampling(tmp_path) == {}
    assert recommended_sampling(write(tmp_path, temperature=None, top_k=None, do_sample=None)) == {}
    assert recommended_sampling(write(tmp_path, top_k=0)) == {"top_k": -1}
    assert recommended_sampling(write(tmp_path, num_beams=4, max_length=20, suppress_tokens=[1])) == {}


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("temperature", "hot", "must be a number, got 'hot'"),
        ("temperature", -0.5, "must be non-negative, got -0.5"),
        ("temperature", float("nan"), "must be finite, got nan"),
        ("temperature", True, "must be a number, got True"),
        ("top_p", 1.5, r"must be in \(0, 1\], got 1.5"),
        ("top_k", 2.5, "must be an integer, got 2.5"),
        ("top_k", False, "must be an integer, got False"),
        ("top_k", -7, "must be -1 .disable., or at least 1, got -7"),
        ("min_p", [0.1], "must be a number"),
        ("repetition_penalty", 0, r"must be in \(0, 2\], got 0"),
        ("max_new_tokens", 0, "must be at least 1, got 0"),
        ("max_new_tokens", 10**30, "must be between"),
        ("do_sample", "yes", "must be true or false, got 'yes'"),
    ],
)
def test_weird_values_are_refused_with_file_and_field(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    pattern = rf"generation_config\.json\] {field} {problem}.*generation_config='vllm'"
    with pytest.raises(ValueError, match=pattern) as caught:
        recommended_sampling(write(tmp_path, **{field: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "\xff", "3"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"generation_config\.json\]"):
        recommended_sampling(tmp_path)


def test_weird_values_hurt_only_calls_that_need_them(model: Path) -> None:
    with open_model(write(model, temperature="hot")) as llm:
        assert llm.generate("a", SamplingParams(max_tokens=2), use_tqdm=False)[0].finished
        with pytest.raises(ValueError, match=r"generation_config\.json\] temperature"):
            llm.generate("a", use_tqdm=False)


def test_lists_of_eos_ids_end_texts(model: Path) -> None:
    with open_model(write(model, eos_token_id=[])) as llm:
        ids = llm.generate("a", SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)[0].outputs[0].token_ids
    with open_model(write(model, eos_token_id=[tiny.EOS, ids[4]])) as llm:
        output = llm.generate("a", SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)[0].outputs[0]
    assert output.finish_reason == "stop"
    assert output.token_ids == ids[: ids.index(ids[4]) + 1]


def test_the_command_line_has_the_same_switch(model: Path, run_quire: Callable[..., Any]) -> None:
    words = ["generate", "The", "--model", str(model), "--ignore-eos", "--temperature", "0"]
    assert tokens_made(run_quire(*words).stderr) == 7
    assert tokens_made(run_quire(*words, "--generation-config", "vllm", "--max-tokens", "200").stderr) == 200
    assert tokens_made(run_quire(*words, "--generation-config", "vllm").stderr) > 7
    refused = run_quire(*words, "--generation-config", "nowhere")
    assert refused.returncode == 1
    assert "generation_config='nowhere' is not a folder" in refused.stderr
