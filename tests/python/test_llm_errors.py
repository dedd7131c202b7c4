"""What LLM refuses, with which exception, and that it stays usable."""

import logging
from pathlib import Path
from typing import Any

import pytest

import tiny
from quire import LLM, RequestOutput, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["Once upon a time", "The", "a", "In the middle of the night", "x" * 60]


def ids(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


BAD_REQUESTS: list[tuple[Any, Any, type[Exception], str]] = [
    (["a", ""], [[1], []], ValueError, r"prompts\[1\] is empty"),
    (None, [[1], [1] * 256], ValueError, r"prompts\[1\].*256"),
    (None, [[1], [268]], ValueError, r"prompts\[1\].*268"),
    (None, [[1], [2**31 - 1]], ValueError, r"prompts\[1\]"),
    (None, [[1, -1]], ValueError, r"prompt_token_ids\[0\]\[1\].*-1"),
]

BAD_PARAMETERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"logprobs": 21}, ValueError, "logprobs.*21"),
    ({"prompt_logprobs": 21}, ValueError, "prompt_logprobs.*21"),
    ({"stop_token_ids": [268]}, ValueError, "stop_token_ids.*268"),
    ({"logit_bias": {268: 1.0}}, ValueError, "logit_bias.*268"),
    ({"best_of": 2}, NotImplementedError, "best_of"),
    ({"use_beam_search": True, "best_of": 2, "temperature": 0}, NotImplementedError, "use_beam_search"),
    ({"logits_processors": [lambda ids, logits: logits]}, NotImplementedError, "logits_processors"),
]


@pytest.mark.parametrize(("prompts", "prompt_token_ids", "error", "message"), BAD_REQUESTS)
def test_a_bad_prompt_raises_by_its_number_and_leaves_the_engine_usable(
    llm: LLM, prompts: Any, prompt_token_ids: Any, error: type[Exception], message: str
) -> None:
    expected = ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    with pytest.raises(error, match=message) as caught:
        llm.generate(prompts, GREEDY, prompt_token_ids, use_tqdm=False)
    assert "\n" not in str(caught.value)
    assert ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False)) == expected


@pytest.mark.parametrize(("parameters", "error", "message"), BAD_PARAMETERS, ids=lambda part: str(part)[:40])
def test_bad_parameters_of_one_prompt_raise_and_leave_the_engine_usable(
    llm: LLM, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    params = [GREEDY, SamplingParams(**parameters), GREEDY]
    with pytest.raises(error, match=message) as caught:
        llm.generate(["a", "b", "c"], params, use_tqdm=False)
    assert "\n" not in str(caught.value)
    assert len(llm.generate("a", GREEDY, use_tqdm=False)[0].outputs[0].token_ids) == 12


def test_lora_and_images_are_not_offered(llm: LLM) -> None:
    with pytest.raises(NotImplementedError, match="lora_request"):
        llm.generate("a", lora_request=object())
    with pytest.raises(NotImplementedError, match="multi_modal_data"):
        llm.generate("a", multi_modal_data=object())


def test_a_missing_tokenizer_is_told_with_the_way_out(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path, tokenizer=False)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json") as caught:
        LLM(str(folder))
    assert "\n" not in str(caught.value)


def test_unknown_arguments_name_the_closest_known_one() -> None:
    with pytest.raises(TypeError, match="'max_model_length'.*'max_model_len'"):
        LLM(max_model_length=5)


def test_arguments_without_effect_are_accepted_and_told_once(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture, device: str
) -> None:
    caplog.set_level(logging.INFO, logger="quire")
    arguments = {"swap_space": 1, "enforce_eager": True, "gpu_memory_utilization": 0.5, "worker_use_ray": True}
    with LLM(str(tiny_llama), kv_cache_memory_bytes=1 << 20, **arguments):
        pass
    lines = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    ignored = {
        "cpu": "CPU: worker_use_ray, swap_space, gpu_memory_utilization, enforce_eager",
        "gpu": "GPU: worker_use_ray",
    }
    assert lines == [f"these arguments have no effect on the {ignored['cpu' if device == 'cpu' else 'gpu']}"]


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "hip", "hip:3"])
def test_a_gpu_that_this_build_knows_nothing_of_says_how_to_get_one(
    device: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_BACKEND_PATH", str(tiny_llama))  # no backend lies there
    name = device.split(":")[0]
    with pytest.raises(NotImplementedError, match=f'no {name} backend.*QUIRE_{name.upper()}.*device="cpu"') as caught:
        LLM(str(tiny_llama), device=device)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_not_implemented(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path, architectures=["MambaOfTomorrowForCausalLM"], model_type="mamba9")
    with pytest.raises(NotImplementedError, match="MambaOfTomorrowForCausalLM"):
        LLM(str(folder))


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_an_unknown_architecture_with_code_of_its_own_stays_unknown(tmp_path: Path, trust_remote_code: bool) -> None:
    changes = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}, "model_type": "mamba9"}
    folder = tiny.make(tmp_path, architectures=["MambaOfTomorrowForCausalLM"], **changes)
    canary = tmp_path / "canary"
    (folder / "modeling.py").write_text(f"open({str(canary)!r}, 'w')")
    # vLLM raises RuntimeError here, of which NotImplementedError is a kind.
    with pytest.raises(NotImplementedError, match="MambaOfTomorrowForCausalLM.*never runs code from a model folder"):
        LLM(str(folder), trust_remote_code=trust_remote_code)
    assert not canary.exists()


def test_a_known_architecture_ignores_code_beside_it(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    with LLM(str(folder), kv_cache_memory_bytes=1 << 20) as opened:
        assert opened.generate("a", GREEDY, use_tqdm=False)[0].finished
