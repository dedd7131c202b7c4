"""
The engine: what include/quire offers to C++, without any logic of its own. Users import quire.
"""

from collections.abc import Callable, Sequence
import enum


class LogprobsMode(enum.Enum):
    """Which distribution log-probabilities are taken from."""

    PROCESSED = 0
    """After bias, penalties, temperature and truncation."""

    RAW = 1
    """Of the model's own logits."""

class EngineConfig:
    """What an engine is built from; see include/quire/config.h."""

    def __init__(self) -> None: ...

    @property
    def model(self) -> str: ...

    @model.setter
    def model(self, arg: str, /) -> None: ...

    @property
    def tokenizer(self) -> str: ...

    @tokenizer.setter
    def tokenizer(self, arg: str, /) -> None: ...

    @property
    def load_format(self) -> str: ...

    @load_format.setter
    def load_format(self, arg: str, /) -> None: ...

    @property
    def with_vocabulary(self) -> bool: ...

    @with_vocabulary.setter
    def with_vocabulary(self, arg: bool, /) -> None: ...

    @property
    def device(self) -> str: ...

    @device.setter
    def device(self, arg: str, /) -> None: ...

    @property
    def tensor_parallel_size(self) -> int: ...

    @tensor_parallel_size.setter
    def tensor_parallel_size(self, arg: int, /) -> None: ...

    @property
    def dtype(self) -> str: ...

    @dtype.setter
    def dtype(self, arg: str, /) -> None: ...

    @property
    def max_model_len(self) -> int | None: ...

    @max_model_len.setter
    def max_model_len(self, arg: int | None, /) -> None: ...

    @property
    def fit_max_model_len(self) -> bool: ...

    @fit_max_model_len.setter
    def fit_max_model_len(self, arg: bool, /) -> None: ...

    @property
    def block_size(self) -> int: ...

    @block_size.setter
    def block_size(self, arg: int, /) -> None: ...

    @property
    def max_num_seqs(self) -> int: ...

    @max_num_seqs.setter
    def max_num_seqs(self, arg: int, /) -> None: ...

    @property
    def max_num_batched_tokens(self) -> int | None: ...

    @max_num_batched_tokens.setter
    def max_num_batched_tokens(self, arg: int | None, /) -> None: ...

    @property
    def gpu_memory_utilization(self) -> float: ...

    @gpu_memory_utilization.setter
    def gpu_memory_utilization(self, arg: float, /) -> None: ...

    @property
    def kv_cache_memory_bytes(self) -> int | None: ...

    @kv_cache_memory_bytes.setter
    def kv_cache_memory_bytes(self, arg: int | None, /) -> None: ...

    @property
    def swap_space_bytes(self) -> int: ...

    @swap_space_bytes.setter
    def swap_space_bytes(self, arg: int, /) -> None: ...

    @property
    def num_blocks_override(self) -> int | None: ...

    @num_blocks_override.setter
    def num_blocks_override(self, arg: int | None, /) -> None: ...

    @property
    def enable_prefix_caching(self) -> bool: ...

    @enable_prefix_caching.setter
    def enable_prefix_caching(self, arg: bool, /) -> None: ...

    @property
    def enforce_eager(self) -> bool: ...

    @enforce_eager.setter
    def enforce_eager(self, arg: bool, /) -> None: ...

    @property
    def deterministic(self) -> bool: ...

    @deterministic.setter
    def deterministic(self, arg: bool, /) -> None: ...

    @property
    def num_threads(self) -> int: ...

    @num_threads.setter
    def num_threads(self, arg: int, /) -> None: ...

    @property
    def seed(self) -> int: ...

    @seed.setter
    def seed(self, arg: int, /) -> None: ...

    @property
    def max_logprobs(self) -> int: ...

    @max_logprobs.setter
    def max_logprobs(self, arg: int, /) -> None: ...

    @property
    def logprobs_mode(self) -> LogprobsMode: ...

    @logprobs_mode.setter
    def logprobs_mode(self, arg: LogprobsMode, /) -> None: ...

    @property
    def max_queued_requests(self) -> int: ...

    @max_queued_requests.setter
    def max_queued_requests(self, arg: int, /) -> None: ...

    def validate(self) -> None:
        """Check all that can be checked without reading the model."""

class SamplingParams:
    """How tokens are chosen; see include/quire/sampling.h."""

    def __init__(self) -> None: ...

    @property
    def n(self) -> int: ...

    @n.setter
    def n(self, arg: int, /) -> None: ...

    @property
    def presence_penalty(self) -> float: ...

    @presence_penalty.setter
    def presence_penalty(self, arg: float, /) -> None: ...

    @property
    def frequency_penalty(self) -> float: ...

    @frequency_penalty.setter
    def frequency_penalty(self, arg: float, /) -> None: ...

    @property
    def repetition_penalty(self) -> float: ...

    @repetition_penalty.setter
    def repetition_penalty(self, arg: float, /) -> None: ...

    @property
    def temperature(self) -> float: ...

    @temperature.setter
    def temperature(self, arg: float, /) -> None: ...

    @property
    def top_p(self) -> float: ...

    @top_p.setter
    def top_p(self, arg: float, /) -> None: ...

    @property
    def top_k(self) -> int: ...

    @top_k.setter
    def top_k(self, arg: int, /) -> None: ...

    @property
    def min_p(self) -> float: ...

    @min_p.setter
    def min_p(self, arg: float, /) -> None: ...

    @property
    def seed(self) -> int | None: ...

    @seed.setter
    def seed(self, arg: int | None, /) -> None: ...

    @property
    def stop(self) -> list[str]: ...

    @stop.setter
    def stop(self, arg: Sequence[str], /) -> None: ...

    @property
    def stop_token_ids(self) -> list[int]: ...

    @stop_token_ids.setter
    def stop_token_ids(self, arg: Sequence[int], /) -> None: ...

    @property
    def include_stop_str_in_output(self) -> bool: ...

    @include_stop_str_in_output.setter
    def include_stop_str_in_output(self, arg: bool, /) -> None: ...

    @property
    def ignore_eos(self) -> bool: ...

    @ignore_eos.setter
    def ignore_eos(self, arg: bool, /) -> None: ...

    @property
    def max_tokens(self) -> int | None: ...

    @max_tokens.setter
    def max_tokens(self, arg: int | None, /) -> None: ...

    @property
    def min_tokens(self) -> int: ...

    @min_tokens.setter
    def min_tokens(self, arg: int, /) -> None: ...

    @property
    def logprobs(self) -> int | None: ...

    @logprobs.setter
    def logprobs(self, arg: int | None, /) -> None: ...

    @property
    def prompt_logprobs(self) -> int | None: ...

    @prompt_logprobs.setter
    def prompt_logprobs(self, arg: int | None, /) -> None: ...

    @property
    def logit_bias(self) -> list[tuple[int, float]]: ...

    @logit_bias.setter
    def logit_bias(self, arg: Sequence[tuple[int, float]], /) -> None: ...

    @property
    def skip_special_tokens(self) -> bool: ...

    @skip_special_tokens.setter
    def skip_special_tokens(self, arg: bool, /) -> None: ...

    @property
    def text_continues_prompt(self) -> bool: ...

    @text_continues_prompt.setter
    def text_continues_prompt(self, arg: bool, /) -> None: ...

    def validate(self) -> None:
        """Check all that can be checked without a model."""

class FinishReason(enum.Enum):
    """Why a sequence ended."""

    NONE = 0

    STOP = 1

    LENGTH = 2

    ABORT = 3

    ERROR = 4

class OutputKind(enum.Enum):
    """When outputs come, and with what."""

    DELTA = 0
    """After every step that adds something, with what is new."""

    FINAL_ONLY = 1
    """Once, with everything."""

class SequenceOutput:
    """One completion, or what is new of it."""

    @property
    def index(self) -> int: ...

    @property
    def text(self) -> str: ...

    @property
    def token_ids(self) -> list[int]: ...

    @property
    def logprobs(self) -> list[list[tuple[int, float, int, str]]]: ...

    @property
    def cumulative_logprob(self) -> float: ...

    @property
    def finish_reason(self) -> FinishReason: ...

    @property
    def stop_reason(self) -> None | str | int: ...

class RequestMetrics:
    """Seconds on the clock of Engine.now()."""

    @property
    def arrival_time(self) -> float: ...

    @property
    def first_scheduled_time(self) -> float | None: ...

    @property
    def first_token_time(self) -> float | None: ...

    @property
    def last_token_time(self) -> float | None: ...

    @property
    def finished_time(self) -> float | None: ...

class Output:
    """What one request has to tell; see include/quire/request.h."""

    @property
    def request_id(self) -> int: ...

    @property
    def sequences(self) -> list[SequenceOutput]: ...

    @property
    def prompt_logprobs(self) -> list[list[tuple[int, float, int, str]]]: ...

    @property
    def finished(self) -> bool: ...

    @property
    def error(self) -> str: ...

    @property
    def num_cached_tokens(self) -> int: ...

    @property
    def metrics(self) -> RequestMetrics: ...

class ModelInfo:
    """What a model folder says, read without its weights."""

    @property
    def architecture(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def num_parameters(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def num_heads(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def max_position_embeddings(self) -> int: ...

    @property
    def eos_token_ids(self) -> list[int]: ...

    @property
    def bos_token_id(self) -> int | None: ...

class MemoryPlan:
    """Where the memory of each rank goes, in bytes."""

    @property
    def num_ranks(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def kv_cache_bytes(self) -> int: ...

    @property
    def kv_bytes_per_token(self) -> int: ...

    @property
    def workspace_bytes(self) -> int: ...

    @property
    def swap_space_bytes(self) -> int: ...

    @property
    def num_swap_blocks(self) -> int: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    @property
    def max_model_len(self) -> int: ...

    @property
    def available_bytes(self) -> int: ...

    @property
    def total_bytes(self) -> int: ...

class ModelDescription:
    """A folder looked at without reading weights."""

    @property
    def model(self) -> ModelInfo: ...

    @property
    def memory(self) -> MemoryPlan: ...

    @property
    def backend(self) -> str: ...

    @property
    def num_threads(self) -> int: ...

class DeviceKind:
    """A kind of device, and what is to be had of it here."""

    @property
    def name(self) -> str: ...

    @property
    def num_devices(self) -> int: ...

    @property
    def why_none(self) -> str: ...

    @property
    def targets(self) -> str: ...

    @property
    def standing(self) -> str: ...

class EngineStats:
    """Counters of a running engine."""

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...

    @property
    def num_swapped(self) -> int: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def num_free_blocks(self) -> int: ...

    @property
    def num_swap_blocks(self) -> int: ...

    @property
    def num_free_swap_blocks(self) -> int: ...

    @property
    def num_steps(self) -> int: ...

    @property
    def num_preemptions(self) -> int: ...

    @property
    def num_swap_preemptions(self) -> int: ...

    @property
    def num_prompt_tokens(self) -> int: ...

    @property
    def num_cached_tokens(self) -> int: ...

    @property
    def num_generated_tokens(self) -> int: ...

    @property
    def num_finished_requests(self) -> int: ...

class Detokenizer:
    """Text of a sequence that grows token by token."""

    def append(self, id: int) -> str:
        """Add a token and return what has become final."""

    def pending(self) -> str: ...

    def finish(self) -> str: ...

class Vocabulary:
    """Token ids to text, as outputs carry it."""

    @staticmethod
    def from_folder(folder: str) -> Vocabulary: ...

    @property
    def size(self) -> int: ...

    def is_special(self, id: int) -> bool: ...

    def token_text(self, id: int) -> str: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def detokenizer(self, context: Sequence[int] = [], skip_special_tokens: bool = True) -> Detokenizer: ...

class OutputQueue:
    """Collects the outputs of any number of requests."""

    @staticmethod
    def create() -> OutputQueue: ...

    def take(self, timeout_seconds: float = -1.0) -> list[Output]:
        """
        Wait until there is something, at most timeout_seconds (negative: for ever), and take all of it.
        """

    def fileno(self) -> int:
        """
        A file descriptor that is readable while there is something; it becomes so once per step at most.
        """

class Engine:
    """Runs one model on a thread of its own; see include/quire/engine.h."""

    @staticmethod
    def create(config: EngineConfig, progress: Callable[[float], None] | None = None) -> Engine: ...

    @staticmethod
    def describe(config: EngineConfig) -> ModelDescription: ...

    @staticmethod
    def families() -> list[tuple[str, list[str]]]: ...

    @staticmethod
    def devices() -> list[DeviceKind]: ...

    @staticmethod
    def now() -> float: ...

    def submit(self, prompt_token_ids: Sequence[int], sampling: SamplingParams, output_kind: OutputKind, queue: OutputQueue) -> int: ...

    def cancel(self, id: int) -> bool: ...

    def close(self) -> None: ...

    def stats(self) -> EngineStats: ...

    @property
    def failure(self) -> str | None: ...

    @property
    def description(self) -> ModelDescription: ...

    @property
    def config(self) -> EngineConfig: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

class LogLevel(enum.Enum):
    DEBUG = 0

    INFO = 1

    WARNING = 2

    ERROR = 3

def take_log_lines() -> list[tuple[LogLevel, str]]:
    """
    The library's lines since the last call, oldest first; at most 1000 are kept.
    """
