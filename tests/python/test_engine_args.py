"""EngineArgs against the flags of vLLM 0.4.0: names, defaults, ranges, what is refused."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from quire import EngineArgs, _core
from quire.arguments import AsyncEngineArgs

DEFAULTS: dict[str, Any] = {
    "model": None,  # vLLM: facebook/opt-125m; here the built-in model
    "tokenizer": None,
    "tokenizer_mode": "auto",
    "trust_remote_code": False,
    "download_dir": None,
    "load_format": "auto",
    "dtype": "auto",
    "kv_cache_dtype": "auto",
    "seed": 0,
    "max_model_len": None,
    "worker_use_ray": False,
    "pipeline_parallel_size": 1,
    "tensor_parallel_size": 1,
    "max_parallel_loading_workers": None,
    "block_size": 16,
    "enable_prefix_caching": True,  # vLLM: False; it cannot change outputs here
    "use_v2_block_manager": False,
    "swap_space": 4,
    "gpu_memory_utilization": 0.90,
    "max_num_batched_tokens": None,
    "max_num_seqs": 256,
    "max_logprobs": 20,  # vLLM: 5
    "disable_log_stats": False,
    "revision": None,
    "code_revision": None,
    "tokenizer_revision": None,
    "quantization": None,
    "enforce_eager": False,
    "max_context_len_to_capture": 8192,
    "disable_custom_all_reduce": False,
    "tokenizer_pool_size": 0,
    "tokenizer_pool_type": "ray",
    "tokenizer_pool_extra_config": None,
    "enable_lora": False,
    "max_loras": 1,
    "max_lora_rank": 16,
    "lora_extra_vocab_size": 256,
    "lora_dtype": "auto",
    "max_cpu_loras": None,
    "ray_workers_use_nsight": False,
    "forced_num_gpu_blocks": None,
    "device": "auto",
    "image_input_type": None,
    "image_token_id": None,
    "image_input_shape": None,
    "image_feature_size": None,
    "scheduler_delay_factor": 0.0,
    "enable_chunked_prefill": False,
}

ADDITIONS = {
    "skip_tokenizer_init",
    "num_threads",
    "deterministic",
    "generation_config",
    "kv_cache_memory_bytes",
    "logprobs_mode",
    "max_queued_requests",
}

INVALID: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", ""),
    ("model", "a\0b"),
    ("tokenizer_mode", "fast"),
    ("trust_remote_code", "yes"),
    ("load_format", "gguf"),
    ("dtype", "int8"),
    ("dtype", 16),
    ("kv_cache_dtype", "fp8"),
    ("seed", "0"),
    ("seed", 2**63),
    ("max_model_len", 0),
    ("max_model_len", 1.5),
    ("max_model_len", "Auto"),
    ("pipeline_parallel_size", 0),
    ("tensor_parallel_size", 0),
    ("tensor_parallel_size", True),
    ("block_size", 12),
    ("block_size", "16"),
    ("enable_prefix_caching", 1),
    ("swap_space", -1),
    ("swap_space", float("nan")),
    ("swap_space", 2**33),
    ("gpu_memory_utilization", 0),
    ("gpu_memory_utilization", 1.1),
    ("max_num_batched_tokens", 0),
    ("max_num_seqs", 0),
    ("max_logprobs", -1),
    ("quantization", "int3"),
    ("max_lora_rank", 0),
    ("forced_num_gpu_blocks", 0),
    ("device", "tpu"),
    ("device", "cuda:"),
    ("device", "cuda:-1"),
    ("device", "cuda:one"),
    ("device", "hip:"),
    ("device", "rocm"),
    ("deterministic", "yes"),
    ("scheduler_delay_factor", -0.5),
    ("num_threads", -1),
    ("kv_cache_memory_bytes", 0),
    ("logprobs_mode", "raw"),
    ("max_queued_requests", 0),
]

NOT_OFFERED: list[tuple[str, Any]] = [
    ("pipeline_parallel_size", 2),
    ("quantization", "awq"),
    ("quantization", "gptq"),
    ("enable_lora", True),
    ("kv_cache_dtype", "fp8_e5m2"),
    ("load_format", "npcache"),
    ("device", "neuron"),
    ("image_input_type", "pixel_values"),
]

NO_EFFECT: list[tuple[str, Any]] = [
    ("max_context_len_to_capture", 100),
    ("worker_use_ray", True),
    ("code_revision", "main"),
    ("revision", "main"),
    ("use_v2_block_manager", True),
]

OF_GPUS: list[tuple[str, Any]] = [
    ("gpu_memory_utilization", 0.5),
    ("enforce_eager", True),
    ("deterministic", True),
    ("swap_space", 8),
]


def test_fields_and_defaults_are_those_of_vllm() -> None:
    defaults = {entry.name: entry.default for entry in dataclasses.fields(EngineArgs)}
    assert {name: defaults.get(name, "missing") for name in DEFAULTS} == DEFAULTS
    assert set(defaults) - set(DEFAULTS) == ADDITIONS


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_values_out_of_range_raise_value_error_naming_field_and_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be") as caught:
        EngineArgs(**{name: value})
    assert repr(value) in str(caught.value) or str(value) in str(caught.value)


@pytest.mark.parametrize(("name", "value"), NOT_OFFERED)
def test_what_is_not_offered_says_so_in_one_line_with_a_remedy(name: str, value: Any) -> None:
    with pytest.raises(NotImplementedError, match=f"^{name}=.*not offered yet; use|^{name}=.*; merge") as caught:
        EngineArgs(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), NO_EFFECT)
def test_what_is_accepted_only_is_known_to_have_no_effect(name: str, value: Any) -> None:
    assert EngineArgs(**{name: value}).without_effect() == [name]
    assert EngineArgs(**{name: value}).without_effect(on_gpu=True) == [name]


@pytest.mark.parametrize(("name", "value"), OF_GPUS)
def test_what_concerns_gpus_is_known_to_have_no_effect_on_the_cpu(name: str, value: Any) -> None:
    assert EngineArgs(**{name: value}).without_effect() == [name]
    assert EngineArgs(**{name: value}).without_effect(on_gpu=True) == []


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:avx2", "cuda", "cuda:0", "cuda:13", "hip", "hip:1"])
def test_devices_reach_the_engine_as_they_are(device: str) -> None:
    assert EngineArgs(device=device).core_config().device == device


def test_a_length_of_auto_fits_it() -> None:
    auto = EngineArgs(max_model_len="auto").core_config()
    assert (auto.max_model_len, auto.fit_max_model_len) == (None, True)
    unset = EngineArgs().core_config()
    assert (unset.max_model_len, unset.fit_max_model_len) == (None, False)
    parser = EngineArgs.add_cli_args(argparse.ArgumentParser())
    assert parser.parse_args(["--max-model-len", "auto"]).max_model_len == "auto"
    assert parser.parse_args(["--max-model-len", "none"]).max_model_len is None


def test_defaults_have_nothing_to_report() -> None:
    assert EngineArgs().without_effect() == []


def test_every_value_reaches_the_engine(tmp_path: Path) -> None:
    arguments = EngineArgs(
        model=str(tmp_path),
        dtype="half",
        seed=7,
        max_model_len=100,
        block_size=32,
        enable_prefix_caching=False,
        max_num_batched_tokens=64,
        max_num_seqs=8,
        max_logprobs=3,
        forced_num_gpu_blocks=12,
        device="cpu:portable",
        skip_tokenizer_init=True,
        num_threads=2,
        kv_cache_memory_bytes=1 << 20,
        logprobs_mode="raw_logprobs",
        max_queued_requests=5,
        gpu_memory_utilization=0.5,
        enforce_eager=True,
        deterministic=True,
    )
    config = arguments.core_config()
    expected = {
        "model": str(tmp_path),
        "tokenizer": "",
        "with_vocabulary": False,
        "device": "cpu:portable",
        "dtype": "float16",
        "max_model_len": 100,
        "block_size": 32,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "kv_cache_memory_bytes": 1 << 20,
        "num_blocks_override": 12,
        "enable_prefix_caching": False,
        "num_threads": 2,
        "seed": 7,
        "max_logprobs": 3,
        "logprobs_mode": _core.LogprobsMode.RAW,
        "max_queued_requests": 5,
        "gpu_memory_utilization": 0.5,
        "enforce_eager": True,
        "deterministic": True,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_torch_dtype_is_understood_by_its_name() -> None:
    class TorchLike:
        def __str__(self) -> str:
            return "torch.bfloat16"

    assert EngineArgs(dtype=TorchLike()).dtype == "bfloat16"  # type: ignore[arg-type]


def test_missing_folder_is_file_not_found_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    for path in ("facebook/opt-125m", str(tmp_path / "missing"), str(file), "~/no/such/folder"):
        with pytest.raises(FileNotFoundError, match="local folder|HF_HUB_OFFLINE") as caught:
            EngineArgs(model=path).core_config()
        assert path in str(caught.value)
        assert "\n" not in str(caught.value)


def test_flags_follow_vllms_scripts() -> None:
    parser = EngineArgs.add_cli_args(argparse.ArgumentParser())
    assert EngineArgs.from_cli_args(parser.parse_args([])) == EngineArgs()
    words = ["--model", "m", "--max-model-len", "64", "-tp", "1", "--trust-remote-code", "--no-enable-prefix-caching"]
    arguments = EngineArgs.from_cli_args(parser.parse_args(words))
    assert arguments == EngineArgs(model="m", max_model_len=64, trust_remote_code=True, enable_prefix_caching=False)
    assert parser.parse_args(["--kv-cache-memory-bytes", "2M"]).kv_cache_memory_bytes == 2 << 20


def test_the_engine_for_many_callers_has_vllms_three_more_fields() -> None:
    added = {entry.name: entry.default for entry in dataclasses.fields(AsyncEngineArgs)}
    for entry in dataclasses.fields(EngineArgs):
        assert added.pop(entry.name) == entry.default
    assert added == {"engine_use_ray": False, "disable_log_requests": False, "max_log_len": None}
    assert AsyncEngineArgs(engine_use_ray=True, max_log_len=5).without_effect() == ["engine_use_ray", "max_log_len"]
