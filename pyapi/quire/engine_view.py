"""`LLM.llm_engine`: what scripts written for vLLM ask of the engine, and nothing to steer it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire import _core


@dataclass(frozen=True)
class ModelConfig:
    """The model as it runs."""

    model: str
    tokenizer: str
    architecture: str
    dtype: str
    """Of the weights as stored."""
    max_model_len: int
    vocab_size: int
    seed: int
    max_logprobs: int

    def get_vocab_size(self) -> int:
        """Rows of the model's embedding."""
        return self.vocab_size


@dataclass(frozen=True)
class CacheConfig:
    """The KV cache as it was laid out."""

    block_size: int
    num_gpu_blocks: int
    """Number of KV blocks; the name is vLLM's."""
    num_cpu_blocks: int
    """Blocks of the swap space; the name is vLLM's."""
    swap_space_bytes: int
    enable_prefix_caching: bool
    kv_cache_memory_bytes: int


@dataclass(frozen=True)
class SchedulerConfig:
    """The limits of one step."""

    max_num_seqs: int
    max_num_batched_tokens: int | None
    max_model_len: int


class EngineView:
    """Read-only facts and counters of a running engine. `core` is the engine itself, for quire's own code."""

    def __init__(self, engine: _core.Engine, tokenizer: Any) -> None:
        self.core = engine
        self.tokenizer = tokenizer
        config, description = engine.config, engine.description
        memory = description.memory
        self.model_config = ModelConfig(
            model=config.model,
            tokenizer=config.tokenizer or config.model,
            architecture=description.model.architecture,
            dtype=description.model.dtype,
            max_model_len=memory.max_model_len,
            vocab_size=description.model.vocab_size,
            seed=config.seed,
            max_logprobs=config.max_logprobs,
        )
        self.cache_config = CacheConfig(
            block_size=memory.block_size,
            num_gpu_blocks=memory.num_blocks,
            num_cpu_blocks=memory.num_swap_blocks,
            swap_space_bytes=memory.swap_space_bytes,
            enable_prefix_caching=config.enable_prefix_caching,
            kv_cache_memory_bytes=memory.kv_cache_bytes,
        )
        self.scheduler_config = SchedulerConfig(
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=memory.max_model_len,
        )

    def get_model_config(self) -> ModelConfig:
        """The same as `model_config`, by the name vLLM also has."""
        return self.model_config

    def get_tokenizer(self) -> Any:
        """The tokenizer, None with skip_tokenizer_init."""
        return self.tokenizer

    def get_num_unfinished_requests(self) -> int:
        """Requests that wait, run, or are swapped out now."""
        stats = self.core.stats()
        return stats.num_running + stats.num_waiting + stats.num_swapped

    def has_unfinished_requests(self) -> bool:
        """Whether any request waits or runs now."""
        return self.get_num_unfinished_requests() > 0

    def stats(self) -> _core.EngineStats:
        """Counters: steps, tokens, blocks, preemptions, cache hits."""
        return self.core.stats()
