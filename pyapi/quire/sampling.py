"""How a request's tokens are chosen: vLLM's SamplingParams, field for field."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from quire import checks
from quire.checks import BOOL, FLOAT, INT, INT64, described, optional

if TYPE_CHECKING:
    from quire import _core

# Below this temperature the best token is always taken.
GREEDY_TEMPERATURE = 1e-5

MAX_COMPLETIONS = 128
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 4096
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024

LogitsProcessor = Callable[[list[int], Any], Any]


class SamplingType(IntEnum):
    """The four ways to choose, by the names vLLM gives them."""

    GREEDY = 0
    RANDOM = 1
    RANDOM_SEED = 2
    BEAM = 3


def _stop_strings(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"{name} must be a string or a list of strings, got {value!r}.")
    strings = [value] if isinstance(value, str) else list(value)
    for index, string in enumerate(strings):
        if checks.as_text(f"{name}[{index}]", string) == "":
            raise ValueError(f"{name} must not contain an empty string, got {strings!r}.")
    if len(strings) > MAX_STOP_STRINGS:
        raise ValueError(f"{name} must have at most {MAX_STOP_STRINGS} strings, got {len(strings)}.")
    num_bytes = sum(len(string.encode()) for string in strings)
    if num_bytes > MAX_STOP_BYTES:
        raise ValueError(f"{name} must have at most {MAX_STOP_BYTES} bytes in all, got {num_bytes}.")
    return strings


def _stop_token_ids(name: str, value: Any) -> list[int]:
    ids = [] if value is None else checks.as_token_ids(name, value)
    if len(ids) > MAX_STOP_TOKEN_IDS:
        raise ValueError(f"{name} must have at most {MAX_STOP_TOKEN_IDS} ids, got {len(ids)}.")
    return ids


def _logit_bias(name: str, value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a dict of token id to number, got {value!r}.")
    ids = checks.as_token_ids(f"{name} keys", value.keys())
    if len(ids) > MAX_LOGIT_BIAS:
        raise ValueError(f"{name} must have at most {MAX_LOGIT_BIAS} entries, got {len(ids)}.")
    biases = [checks.as_float(f"{name}[{key!r}]", bias) for key, bias in value.items()]
    return dict(zip(ids, biases, strict=True))


def _logits_processors(name: str, value: Any) -> list[LogitsProcessor] | None:
    if value is not None and not (isinstance(value, (list, tuple)) and all(map(callable, value))):
        raise ValueError(f"{name} must be a list of functions, got {value!r}.")
    return None if value is None else list(value)


def _early_stopping(name: str, value: Any) -> Any:
    if not isinstance(value, bool) and value != "never":
        raise ValueError(f"{name} must be True, False or 'never', got {value!r}.")
    return value


def _parse_early_stopping(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)


def _parse_token_ids(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse_logit_bias(text: str) -> dict[int, float]:
    pairs = (part.partition("=") for part in text.split(","))
    return {int(token_id): float(bias) for token_id, _, bias in pairs}


EARLY_STOPPING = checks.Kind(_early_stopping, _parse_early_stopping, "WORD", "true, false or never")
STOP = checks.Kind(_stop_strings, str, "TEXT", repeatable=True)
STOP_TOKEN_IDS = checks.Kind(_stop_token_ids, _parse_token_ids, "ID,ID,...", "token ids, such as 2,13")
LOGIT_BIAS = checks.Kind(_logit_bias, _parse_logit_bias, "ID=X,ID=X,...", "token ids and numbers, such as 13=-5.5,2=1")
# Functions cannot be given on a command line.
LOGITS_PROCESSORS = checks.Kind(_logits_processors, None)


@dataclass
class SamplingParams:
    """How tokens are chosen, and where a text ends. Names, defaults, ranges and order are those of vLLM 0.4.0.

    Values are checked here, at construction, and once more when used, so that fields may be set later.
    Raises ValueError that names field and value.

    `best_of` > `n`, `use_beam_search` and `logits_processors` are accepted here and refused by
    `LLM.generate` with a NotImplementedError. `spaces_between_special_tokens` changes nothing: text is decoded as
    the `tokenizers` library does. `logit_bias` and `text_continues_prompt` are additions to vLLM 0.4.0.
    """

    n: int = described(1, INT, "completions per prompt; in [1, 128]")
    best_of: int | None = described(
        None, optional(INT), "completions drawn, of which the best n are returned; not offered yet", hidden=True
    )
    presence_penalty: float = described(
        0.0, FLOAT, "subtracted once from the logit of every token already generated; in [-2, 2]"
    )
    frequency_penalty: float = described(
        0.0, FLOAT, "subtracted per occurrence from the logit of tokens already generated; in [-2, 2]"
    )
    repetition_penalty: float = described(
        1.0, FLOAT, "divides the logits of tokens seen in prompt or output, 1 is off; in (0, 2]"
    )
    temperature: float = described(
        1.0, FLOAT, "divides the logits; 0 always takes the best token; higher is more varied; >= 0"
    )
    top_p: float = described(1.0, FLOAT, "keep the best tokens up to this probability mass; in (0, 1]")
    top_k: int = described(-1, INT, "keep this many of the best tokens, -1 keeps all; -1 or >= 1")
    min_p: float = described(0.0, FLOAT, "drop tokens below this share of the best token's probability; in [0, 1]")
    seed: int | None = described(None, optional(INT64), "same seed, same text")
    use_beam_search: bool = described(False, BOOL, "beam search of width best_of; not offered yet", hidden=True)
    length_penalty: float = described(1.0, FLOAT, "for beam search only", hidden=True)
    early_stopping: bool | str = described(
        False, EARLY_STOPPING, "for beam search only: true, false or never", hidden=True
    )
    stop: str | list[str] | None = described(None, STOP, "end the text before this string; repeatable")
    stop_token_ids: list[int] | None = described(None, STOP_TOKEN_IDS, "end the text after one of these token ids")
    include_stop_str_in_output: bool = described(False, BOOL, "leave the stop string in the text")
    ignore_eos: bool = described(False, BOOL, "go on after the model's end-of-text token")
    max_tokens: int | None = described(16, optional(INT), "most tokens generated; none: up to max_model_len; >= 1")
    min_tokens: int = described(0, INT, "tokens generated before the text may end; in [0, max_tokens]")
    logprobs: int | None = described(
        None, optional(INT), "best log-probabilities returned per token; none: not even the chosen one's; >= 0"
    )
    prompt_logprobs: int | None = described(None, optional(INT), "the same for the tokens of the prompt; >= 0")
    skip_special_tokens: bool = described(True, BOOL, "leave special tokens out of the text")
    spaces_between_special_tokens: bool = described(True, BOOL, "accepted, without effect", hidden=True)
    logits_processors: list[LogitsProcessor] | None = described(
        None, LOGITS_PROCESSORS, "functions of (output ids, logits) that change the logits"
    )
    logit_bias: dict[int, float] | None = described(
        None, LOGIT_BIAS, "added to the logits of these token ids before anything else"
    )
    text_continues_prompt: bool = described(
        False, BOOL, "decode the text behind the prompt: a first word keeps its space", hidden=True
    )

    def __post_init__(self) -> None:
        self.verify()

    def verify(self) -> None:
        """Check every field and bring it to its normal form: stop as a list, best_of as a number.

        Raises: ValueError naming field and value.
        """
        for entry in fields(self):
            setattr(self, entry.name, entry.metadata["kind"].check(entry.name, getattr(self, entry.name)))
        if self.best_of is None:
            self.best_of = self.n
        self._verify_distribution()
        self._verify_lengths()
        if self.use_beam_search:
            self._verify_beam_search()
        else:
            self._verify_no_beam_search()
            if self.temperature < GREEDY_TEMPERATURE:
                self._make_greedy()

    def _verify_distribution(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not -2.0 <= value <= 2.0:
                raise ValueError(f"{name} must be in [-2, 2], got {value}.")
        if not 0.0 < self.repetition_penalty <= 2.0:
            raise ValueError(f"repetition_penalty must be in (0, 2], got {self.repetition_penalty}.")
        if self.temperature < 0.0:
            raise ValueError(f"temperature must be non-negative, got {self.temperature}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.top_k < -1 or self.top_k == 0:
            raise ValueError(f"top_k must be -1 (disable), or at least 1, got {self.top_k}.")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}.")

    def _verify_lengths(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}.")
        if self.n > MAX_COMPLETIONS:
            raise ValueError(f"n must be at most {MAX_COMPLETIONS}, got {self.n}.")
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"best_of must be greater than or equal to n, got n={self.n} and best_of={self.best_of}.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens must be greater than or equal to 0, got {self.min_tokens}.")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens must be less than or equal to max_tokens={self.max_tokens}, got {self.min_tokens}."
            )
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be non-negative, got {value}.")

    def _verify_beam_search(self) -> None:
        if self.best_of is not None and self.best_of < 2:
            raise ValueError(f"best_of must be greater than 1 when using beam search, got {self.best_of}.")
        if self.temperature >= GREEDY_TEMPERATURE:
            raise ValueError(f"temperature must be 0 when using beam search, got {self.temperature}.")
        if self.top_p < 1.0:
            raise ValueError(f"top_p must be 1 when using beam search, got {self.top_p}.")
        if self.top_k != -1:
            raise ValueError(f"top_k must be -1 when using beam search, got {self.top_k}.")

    def _verify_no_beam_search(self) -> None:
        if self.early_stopping is not False:
            raise ValueError(
                "early_stopping is not effective and must be False when not using beam search, "
                f"got {self.early_stopping!r}."
            )
        if self.length_penalty != 1.0:
            raise ValueError(
                "length_penalty is not effective and must be the default value of 1.0 when not using beam search, "
                f"got {self.length_penalty}."
            )

    def _make_greedy(self) -> None:
        self.top_p, self.top_k, self.min_p = 1.0, -1, 0.0
        if self.best_of is not None and self.best_of > 1:
            raise ValueError(
                f"best_of must be 1 when using greedy sampling (temperature={self.temperature}), "
                f"got n={self.n} and best_of={self.best_of}."
            )

    @property
    def sampling_type(self) -> SamplingType:
        """Which of the four ways these values mean."""
        if self.use_beam_search:
            return SamplingType.BEAM
        if self.temperature < GREEDY_TEMPERATURE:
            return SamplingType.GREEDY
        return SamplingType.RANDOM if self.seed is None else SamplingType.RANDOM_SEED

    def ended_by(self, token_ids: list[int], texts: list[str]) -> SamplingParams:
        """The same with more that ends a text, unless it is not to end by itself (ignore_eos)."""
        if self.ignore_eos or not (token_ids or texts):
            return self
        changed = self.clone()
        changed.verify()
        changed.stop_token_ids = list(dict.fromkeys([*(changed.stop_token_ids or []), *token_ids]))
        changed.stop = list(dict.fromkeys([*(changed.stop or []), *texts]))
        return changed

    def clone(self) -> SamplingParams:
        """A deep copy that shares the logits processors, which may be large or impossible to copy."""
        shared = {id(processor): processor for processor in self.logits_processors or []}
        return copy.deepcopy(self, memo=shared)


def core_sampling(params: SamplingParams) -> _core.SamplingParams:
    """Check the values once more and translate them for the engine.

    Raises: ValueError; NotImplementedError for what the engine does not offer.
    """
    from quire import _core

    if not isinstance(params, SamplingParams):
        raise ValueError(f"sampling_params must be a SamplingParams, got {params!r}.")
    # On a copy: to be used must not change what belongs to the caller.
    checked = copy.copy(params)
    checked.verify()
    if checked.use_beam_search:
        raise NotImplementedError("use_beam_search=True is not offered; use temperature=0 for the best single text.")
    if checked.best_of != checked.n:
        raise NotImplementedError(
            f"best_of > n is not offered, got best_of={checked.best_of} and n={checked.n}; "
            "set n and choose by cumulative_logprob."
        )
    if checked.logits_processors:
        raise NotImplementedError("logits_processors are not offered; logit_bias adds to the logits of single tokens.")
    core = _core.SamplingParams()
    for name in _CORE_FIELDS:
        setattr(core, name, getattr(checked, name))
    core.logit_bias = list((checked.logit_bias or {}).items())
    return core


_CORE_FIELDS = tuple(
    entry.name
    for entry in fields(SamplingParams)
    if entry.name
    not in {
        "best_of",
        "use_beam_search",
        "length_penalty",
        "early_stopping",
        "spaces_between_special_tokens",
        "logits_processors",
        "logit_bias",
    }
)
