"""Constructor, methods and output classes against vLLM 0.4.0: names, order, defaults."""

import dataclasses
import inspect
from typing import Any

from quire import LLM, CompletionOutput, Logprob, RequestMetrics, RequestOutput

CONSTRUCTOR: dict[str, Any] = {
    "model": None,  # vLLM: required; here the built-in model
    "tokenizer": None,
    "tokenizer_mode": "auto",
    "trust_remote_code": False,
    "tensor_parallel_size": 1,
    "dtype": "auto",
    "quantization": None,
    "revision": None,
    "tokenizer_revision": None,
    "seed": 0,
    "gpu_memory_utilization": 0.9,
    "swap_space": 4,
    "enforce_eager": False,
    "max_context_len_to_capture": 8192,
    "disable_custom_all_reduce": True,
}

GENERATE: dict[str, Any] = {
    "prompts": None,
    "sampling_params": None,
    "prompt_token_ids": None,
    "use_tqdm": True,
    "lora_request": None,
    "multi_modal_data": None,
}

# vLLM's fields, in its order; ours may follow.
OUTPUTS = {
    RequestOutput: [
        "request_id",
        "prompt",
        "prompt_token_ids",
        "prompt_logprobs",
        "outputs",
        "finished",
        "metrics",
        "lora_request",
    ],
    CompletionOutput: [
        "index",
        "text",
        "token_ids",
        "cumulative_logprob",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "lora_request",
    ],
    RequestMetrics: [
        "arrival_time",
        "last_token_time",
        "first_scheduled_time",
        "first_token_time",
        "time_in_queue",
        "finished_time",
    ],
    Logprob: ["logprob", "rank", "decoded_token"],
}


def defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD,)
    return {one.name: one.default for one in parameters if one.name != "self" and one.kind not in kinds}


def test_constructor_takes_vllms_arguments_in_its_order() -> None:
    assert list(defaults(LLM.__init__).items()) == list(CONSTRUCTOR.items())


def test_generate_takes_vllms_arguments_in_its_order() -> None:
    assert list(defaults(LLM.generate).items()) == list(GENERATE.items())


def test_output_classes_begin_with_vllms_fields() -> None:
    for output_class, names in OUTPUTS.items():
        assert [entry.name for entry in dataclasses.fields(output_class)][: len(names)] == names


def test_methods_of_vllm_are_there() -> None:
    for name in ("generate", "chat", "get_tokenizer", "set_tokenizer", "get_default_sampling_params"):
        assert callable(getattr(LLM, name))
