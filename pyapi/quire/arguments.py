"""What an engine is built from: vLLM's EngineArgs, field for field, with what each of them means here."""

from __future__ import annotations

import argparse
import logging
import os
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from quire.checks import BOOL, BYTES, FLOAT, INT, INT64, TEXT, Kind, at_least, described, one_of, optional

if TYPE_CHECKING:
    from quire import _core

logger = logging.getLogger("quire")

BUILT_IN_MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "storyteller")

_DTYPES = {"half": "float16", "float": "float32"}
_LOGPROBS_MODES = {"processed_logprobs": "PROCESSED", "raw_logprobs": "RAW"}


def _dtype(name: str, value: Any) -> str:
    # torch.float16 and its like are understood by their names.
    text = str(value).removeprefix("torch.")
    return str(one_of("auto", "half", "float16", "bfloat16", "float", "float32").check(name, text))


def _utilization(name: str, value: Any) -> float:
    share = FLOAT.check(name, value)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{name} must be in (0, 1], got {value!r}.")
    return float(share)


def _gibibytes(name: str, value: Any) -> float:
    number = float(at_least(0, FLOAT).check(name, value))
    if number >= 2**33:  # bytes are counted in 63 bits
        raise ValueError(f"{name} must be a number of GiB below {2**33}, got {value!r}.")
    return number


def _block_size(name: str, value: Any) -> int:
    if INT.check(name, value) not in (8, 16, 32, 64, 128):
        raise ValueError(f"{name} must be one of 8, 16, 32, 64, 128, got {value!r}.")
    return int(value)


def _device(name: str, value: Any) -> str:
    # A torch.device is understood by its text.
    text = str(value)
    if re.fullmatch(r"(cuda|hip):\d{1,4}", text):
        return text
    devices = ("auto", "cpu", "cpu:portable", "cpu:avx2", "cpu:avx512", "cuda", "hip", "neuron")
    if text not in devices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, devices))}, 'cuda:N', 'hip:N', got {value!r}.")
    return text


def _length(name: str, value: Any) -> int | str:
    return "auto" if value == "auto" else int(at_least(2).check(name, value))


def _parse_length(text: str) -> int | str:
    return "auto" if text == "auto" else int(text)


def _path(name: str, value: Any, expected: str = "the path of a folder") -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name} must be {expected}, got {value!r}.")
    path = TEXT.check(name, os.fspath(value))
    if not path or "\0" in path:
        raise ValueError(f"{name} must be {expected}, got {path!r}.")
    return str(path)


def _model(name: str, value: Any) -> str:
    return _path(name, value, "the path of a folder or a name on the hub")


PATH = Kind(_path, str, "FOLDER")
MODEL = Kind(_model, str, "MODEL")
GENERATION_CONFIG = Kind(_path, str, "{auto,vllm,FOLDER}")
DTYPE = Kind(_dtype, str, "{auto,half,float16,bfloat16,float,float32}")
GIBIBYTES = Kind(_gibibytes, float, "GIB", "a number")
SHARE = Kind(_utilization, float, "X", "a number")
LENGTH = Kind(_length, _parse_length, "N", "an integer or auto")
LOAD_FORMAT = one_of("auto", "pt", "safetensors", "npcache", "dummy")
LORA_DTYPE = one_of("auto", "float16", "bfloat16", "float32")


def _no_effect(default: Any, kind: Kind, reason: str) -> Any:
    """A field that is checked and accepted, and changes nothing."""
    return described(default, kind, f"no effect: {reason}", noted=True, hidden=True)


def _of_gpus(default: Any, kind: Kind, text: str) -> Any:
    """A field that changes nothing on the CPU."""
    return described(default, kind, f"{text}; no effect on the CPU", noted=True, of_gpus=True)


def _of_hub(default: Any, kind: Kind, text: str) -> Any:
    """A field that changes nothing where model and tokenizer are local folders."""
    return described(default, kind, text, noted=True, of_hub=True, group="model")


def _quiet(default: Any, kind: Kind, reason: str) -> Any:
    """As _no_effect, of which nobody needs to be told."""
    return described(default, kind, f"accepted, no effect: {reason}", hidden=True)


def _not_offered(default: Any, kind: Kind, remedy: str, also: tuple[Any, ...] = (), **metadata: Any) -> Any:
    """A field of which only the default, and the values in `also`, are offered."""
    return described(
        default, kind, f"not offered yet: {remedy}", offered=(default, *also), remedy=remedy, hidden=True, **metadata
    )


def check_fields(arguments: Any) -> None:
    """Bring every described field of a dataclass to its normal form.

    Raises: ValueError naming field and value; NotImplementedError for what is not offered.
    """
    described_fields = [entry for entry in fields(arguments) if "kind" in entry.metadata]
    for entry in described_fields:
        value = entry.metadata["kind"].check(entry.name, getattr(arguments, entry.name))
        setattr(arguments, entry.name, value)
    for entry in described_fields:
        value = getattr(arguments, entry.name)
        if value not in entry.metadata.get("offered", (value,)):
            raise NotImplementedError(f"{entry.name}={value!r} is not offered yet; {entry.metadata['remedy']}.")


@dataclass
class EngineArgs:
    """What an engine is built from. Names and defaults are those of vLLM 0.4.0, except that

    - `model` may be left out: the built-in storyteller then runs;
    - `enable_prefix_caching` is on: outputs are the same bit for bit with and without it;
    - `max_logprobs` is 20, and `max_num_batched_tokens` need not reach `max_model_len`, because long prompts are
      computed in chunks always (`enable_chunked_prefill`);
    - the fields at the end are additions.

    Raises at construction ValueError that names field and value, NotImplementedError for what is not offered.
    What has no effect, on the CPU what concerns GPUs, is checked and otherwise ignored, which `LLM` logs once at level
    info.
    """

    model: str | None = described(
        None, optional(MODEL), "folder in Hugging Face layout; default: the built-in model", group="model"
    )
    tokenizer: str | None = described(
        None, optional(MODEL), "folder of the tokenizer; default: the model's", group="model"
    )
    tokenizer_mode: str = described(
        "auto", one_of("auto", "slow"), "slow prefers tokenizer.model (SentencePiece)", group="model"
    )
    trust_remote_code: bool = _quiet(False, BOOL, "code from a model folder is never run")
    download_dir: str | None = _of_hub(None, optional(PATH), "folder to keep fetched models in; default: HF_HOME's")
    load_format: str = described(
        "auto",
        LOAD_FORMAT,
        "where weights come from: auto, the folder's files; dummy, random ones of the config's shapes, to measure with",
        offered=("auto", "pt", "safetensors", "dummy"),
        remedy="use load_format='auto'",
        group="model",
    )
    dtype: str = described("auto", DTYPE, "type of weights and KV cache", group="model")
    kv_cache_dtype: str = _not_offered("auto", one_of("auto", "fp8_e5m2"), "use kv_cache_dtype='auto'")
    seed: int = described(0, INT64, "seed of the requests that bring none")
    max_model_len: int | str | None = described(
        None,
        optional(LENGTH),
        "longest prompt plus output, in tokens; auto: as long as the KV cache allows; default: the model's own",
    )
    worker_use_ray: bool = _no_effect(False, BOOL, "one process does all")
    pipeline_parallel_size: int = _not_offered(1, at_least(1), "use pipeline_parallel_size=1", flags=("-pp",))
    tensor_parallel_size: int = described(
        1, at_least(1), "GPUs, from device on, that compute the model together, each a share of it", flags=("-tp",)
    )
    max_parallel_loading_workers: int | None = _no_effect(None, optional(at_least(1)), "loading is memory-mapped")
    block_size: int = described(16, Kind(_block_size, int, "N"), "tokens per KV block: 8, 16, 32, 64 or 128")
    enable_prefix_caching: bool = described(True, BOOL, "reuse the KV cache of equal prompt beginnings")
    use_v2_block_manager: bool = _no_effect(False, BOOL, "there is one block manager")
    swap_space: float = _of_gpus(
        4,
        GIBIBYTES,
        "GiB of the host's memory, per GPU, for KV blocks of preempted requests with n > 1; 0: recompute them",
    )
    gpu_memory_utilization: float = _of_gpus(
        0.9, SHARE, "share of a GPU's memory that may be in use, what weights leave of it being KV cache"
    )
    max_num_batched_tokens: int | None = described(None, optional(at_least(1)), "most tokens computed in one step")
    max_num_seqs: int = described(256, at_least(1), "most sequences in one step")
    max_logprobs: int = described(20, at_least(0), "upper bound of logprobs and prompt_logprobs")
    disable_log_stats: bool = _quiet(False, BOOL, "nothing is logged unasked")
    revision: str | None = _of_hub(None, optional(TEXT), "branch, tag or commit of a model on the hub")
    code_revision: str | None = _no_effect(None, optional(TEXT), "code from a model folder is never run")
    tokenizer_revision: str | None = _of_hub(None, optional(TEXT), "the same for the tokenizer")
    quantization: str | None = _not_offered(
        None,
        optional(one_of("awq", "gptq", "squeezellm", "marlin")),
        "use weights in float32, float16 or bfloat16",
        flags=("-q",),
    )
    enforce_eager: bool = _of_gpus(False, BOOL, "record no graphs of steps")
    max_context_len_to_capture: int = _no_effect(8192, at_least(1), "a graph serves every length")
    disable_custom_all_reduce: bool = _quiet(False, BOOL, "the engine knows which one serves")
    tokenizer_pool_size: int = _no_effect(0, at_least(0), "the tokenizer has threads of its own")
    tokenizer_pool_type: str = _no_effect("ray", TEXT, "the tokenizer has threads of its own")
    tokenizer_pool_extra_config: str | None = _no_effect(None, optional(TEXT), "see tokenizer_pool_size")
    enable_lora: bool = _not_offered(False, BOOL, "merge the adapter into the weights")
    max_loras: int = _no_effect(1, at_least(1), "see enable_lora")
    max_lora_rank: int = _no_effect(16, at_least(1), "see enable_lora")
    lora_extra_vocab_size: int = _no_effect(256, at_least(0), "see enable_lora")
    lora_dtype: str = _no_effect("auto", LORA_DTYPE, "see enable_lora")
    max_cpu_loras: int | None = _no_effect(None, optional(at_least(1)), "see enable_lora")
    ray_workers_use_nsight: bool = _no_effect(False, BOOL, "there are no Ray workers")
    forced_num_gpu_blocks: int | None = described(
        None, optional(at_least(1)), "number of KV blocks, over any other setting; for tests of preemption"
    )
    device: str = described(
        "auto",
        Kind(_device, str, "{auto,cpu,cpu:portable,cpu:avx2,cpu:avx512,cuda,cuda:N,hip,hip:N}"),
        "what computes; auto: a GPU if there is one",
    )
    image_input_type: str | None = _not_offered(None, optional(TEXT), "use text prompts")
    image_token_id: int | None = _not_offered(None, optional(INT), "use text prompts")
    image_input_shape: str | None = _not_offered(None, optional(TEXT), "use text prompts")
    image_feature_size: int | None = _not_offered(None, optional(INT), "use text prompts")
    scheduler_delay_factor: float = _no_effect(0.0, at_least(0, FLOAT), "prompts and outputs share every step")
    enable_chunked_prefill: bool = _quiet(False, BOOL, "always on")
    skip_tokenizer_init: bool = described(False, BOOL, "token ids in and out, no tokenizer needed", hidden=True)
    num_threads: int = described(0, at_least(0), "threads of the CPU that compute; 0: one per physical core")
    deterministic: bool = _of_gpus(
        False, BOOL, "outputs depend to the last bit on the request alone, which the CPU always keeps to"
    )
    kv_cache_memory_bytes: int | None = described(
        None,
        optional(at_least(1, BYTES)),
        "size of the KV cache, per GPU, as in 2G; default: from the memory that is free",
    )
    logprobs_mode: str = described(
        "processed_logprobs", one_of(*_LOGPROBS_MODES), "log-probabilities after or before sampling parameters act"
    )
    generation_config: str = described(
        "auto",
        GENERATION_CONFIG,
        "whose generation_config.json gives sampling parameters that are not set: the model's, nobody's, or a folder's",
        group="model",
    )
    max_queued_requests: int = described(2**20, at_least(1, INT64), "requests that may wait or run at a time")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.device == "neuron":
            raise NotImplementedError(f"device={self.device!r} is not offered yet; use device='cpu'.")

    def without_effect(self, on_gpu: bool = False) -> list[str]:
        """The fields that were set and change nothing there."""
        from_hub = self.is_on_hub() or _is_on_hub(self.tokenizer)
        return [
            entry.name
            for entry in fields(self)
            if entry.metadata.get("noted")
            and getattr(self, entry.name) != entry.default
            and not (on_gpu and entry.metadata.get("of_gpus"))
            and not (from_hub and entry.metadata.get("of_hub"))
        ]

    def is_on_hub(self) -> bool:
        """Whether the model is no folder here, but may be the name of one on the hub."""
        return _is_on_hub(self.model)

    def model_folder(self) -> str:
        """The folder to read; a model on the hub is fetched first.

        Raises: OSError in one line: FileNotFoundError if there is no such folder and no such model on the hub, and
        others as quire.hub.fetch().
        """
        if self.model is None:
            return BUILT_IN_MODEL
        preferred = {"dummy": "none", "pt": "bin"}.get(self.load_format, "safetensors")
        return self._folder("model", self.model, self.revision, preferred)

    def tokenizer_folder(self) -> str:
        """The folder of the tokenizer files; as model_folder()."""
        if self.tokenizer is not None:
            return self._folder("tokenizer", self.tokenizer, self.tokenizer_revision, "none")
        if self.model is not None and self.tokenizer_revision is not None and self.is_on_hub():
            return self._folder("tokenizer", self.model, self.tokenizer_revision, "none")
        return self.model_folder()

    def _folder(self, name: str, value: str, revision: str | None, weights: str) -> str:
        if not _is_on_hub(value):
            return existing_folder(name, value)
        from quire import hub

        cache = None if self.download_dir is None else os.path.expanduser(self.download_dir)
        return hub.fetch(hub.Source(value, revision, cache, weights, name))

    def default_sampling(self) -> dict[str, Any]:
        """The sampling parameters that generation_config recommends, by name.

        Raises: FileNotFoundError if a folder was given and has no such file; ValueError naming file and field.
        """
        from quire.generation_config import FILE_NAME, recommended_sampling

        if self.generation_config == "vllm":
            return {}
        if self.generation_config == "auto":
            return recommended_sampling(self.model_folder())
        folder = existing_folder("generation_config", self.generation_config, "a folder with generation_config.json")
        if not os.path.isfile(os.path.join(folder, FILE_NAME)):
            raise FileNotFoundError(f"generation_config={self.generation_config!r} has no {FILE_NAME}.")
        return recommended_sampling(folder)

    def core_config(self) -> _core.EngineConfig:
        """Translate the values for the engine.

        Raises: FileNotFoundError if there is no such folder, ValueError as the engine's own check.
        """
        from quire import _core

        config = _core.EngineConfig()
        config.model = self.model_folder()
        config.tokenizer = "" if self.tokenizer_folder() == config.model else self.tokenizer_folder()
        config.load_format = "dummy" if self.load_format == "dummy" else "auto"
        config.with_vocabulary = not self.skip_tokenizer_init
        config.dtype = _DTYPES.get(self.dtype, self.dtype)
        config.fit_max_model_len = self.max_model_len == "auto"
        config.max_model_len = None if isinstance(self.max_model_len, str) else self.max_model_len
        config.swap_space_bytes = int(self.swap_space * 2**30)
        config.num_blocks_override = self.forced_num_gpu_blocks
        config.logprobs_mode = getattr(_core.LogprobsMode, _LOGPROBS_MODES[self.logprobs_mode])
        for name in _SAME_NAME:
            setattr(config, name, getattr(self, name))
        config.validate()
        return config

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add a flag for every field, as vLLM's scripts do."""
        from quire.commands.flags import add_engine_flags

        add_engine_flags(parser)
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> EngineArgs:
        """Take the fields out of parsed flags; what was not given keeps its default."""
        return cls(**{entry.name: getattr(args, entry.name) for entry in fields(cls) if hasattr(args, entry.name)})


@dataclass
class AsyncEngineArgs(EngineArgs):
    """EngineArgs and what vLLM 0.4.0 adds for an engine that serves many callers."""

    disable_log_stats: bool = described(False, BOOL, "log no line about load every few seconds", group="logs")
    engine_use_ray: bool = _no_effect(False, BOOL, "one process does all")
    disable_log_requests: bool = described(False, BOOL, "log no line per request", group="logs")
    max_log_len: int | None = _no_effect(None, optional(at_least(0)), "prompts are never logged")


_SAME_NAME = (
    "device",
    "tensor_parallel_size",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "enable_prefix_caching",
    "enforce_eager",
    "deterministic",
    "num_threads",
    "seed",
    "max_logprobs",
    "max_queued_requests",
)


def _is_on_hub(value: str | None) -> bool:
    if value is None or os.path.isdir(os.path.expanduser(value)):
        return False
    from quire import hub

    return hub.is_name(value)


def existing_folder(
    name: str, path: str, needed: str = "a local folder with config.json, weights and tokenizer files"
) -> str:
    """The path with ~ resolved.

    Raises: FileNotFoundError, in one line that says what is needed.
    """
    folder = os.path.expanduser(path)
    if os.path.isdir(folder):
        return folder
    needed += " is needed"
    if os.path.isfile(folder):
        raise FileNotFoundError(f"{name}={path!r} is a file; {needed}, give the folder that holds it.")
    raise FileNotFoundError(f"{name}={path!r} is not a folder; {needed}.")
