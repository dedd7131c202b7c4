"""Prompts to measure with: random tokens, conversations of ShareGPT, or somebody's own file."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from quire.arguments import check_fields
from quire.checks import FLOAT, INT64, TEXT, Kind, at_least, described, one_of, optional

# What vLLM takes of ShareGPT: neither too short to say something, nor too long for small models.
SHORTEST, LONGEST_PROMPT, LONGEST_IN_ALL = 4, 1024, 2048

# Tokens of common words: random text of them is as long in tokens as it is meant to be.
SAMPLE = (
    "The old man walked slowly down to the river, where his boat lay in the sun. It was early in the year, and the "
    "water was still cold from the snow of the mountains. He looked up at the sky, thought about his daughter in the "
    "city, and wondered whether she would come home for the summer. Many people had left the village; some wrote "
    "letters, others only called when they needed money. In the house behind the church there was a light, although "
    "nobody had lived there for seven years. When he opened the door, he found a small table with bread, a glass of "
    "wine and three apples, and a note that said: do not wait for me, I have gone to see the king about the horses."
)

Tokenize = Callable[[str], list[int]]


def _ratio(name: str, value: Any) -> float:
    share = FLOAT.check(name, value)
    if not 0.0 <= share < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}.")
    return float(share)


@dataclass
class DataFlags:
    """Which prompts, how many, how long."""

    dataset_name: str = described("random", one_of("random", "sharegpt", "custom"), "kind of prompts", group="prompts")
    dataset_path: str | None = described(
        None,
        optional(Kind(TEXT.check, str, "FILE")),
        'sharegpt: its JSON file; custom: lines of JSON with "prompt" and maybe "output_tokens"',
        group="prompts",
    )
    num_prompts: int = described(1000, at_least(1), "number of prompts", group="prompts")
    seed: int = described(0, INT64, "the same seed, the same prompts", group="prompts")
    random_input_len: int | None = described(
        None, optional(at_least(1)), "tokens per random prompt; default: 1024, or half the context", group="prompts"
    )
    random_output_len: int | None = described(
        None, optional(at_least(1)), "tokens to generate; default: 128, or an eighth of the context", group="prompts"
    )
    random_range_ratio: float = described(
        0.0, Kind(_ratio, float, "X", "a number"), "lengths vary by this share, up and down", group="prompts"
    )
    random_prefix_len: int = described(
        0, at_least(0), "tokens that all random prompts begin with, beside the others", group="prompts"
    )
    sharegpt_output_len: int | None = described(
        None, optional(at_least(1)), "tokens to generate; default: as long as the answer in the file", group="prompts"
    )
    custom_output_len: int = described(
        256, at_least(1), "tokens to generate where a line of the file does not say", group="prompts"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dataset_name != "random" and self.dataset_path is None:
            raise ValueError(f"dataset_path must be given with dataset_name={self.dataset_name!r}.")

    def lengths(self, context: int | None) -> tuple[int, int]:
        """Tokens of a random prompt, prefix included, and of its output, if they do not vary.

        Raises: ValueError if they do not fit the context.
        """
        num_input = self.random_input_len or min(1024, 1024 if context is None else max(1, context // 2))
        num_output = self.random_output_len or min(128, 128 if context is None else max(1, context // 8))
        longest = int((num_input + num_output) * (1 + self.random_range_ratio)) + self.random_prefix_len
        if context is not None and longest > context:
            raise ValueError(
                f"random_input_len={num_input} and random_output_len={num_output} are up to {longest} tokens together, "
                f"more than the context of {context}."
            )
        return num_input, num_output


@dataclass
class Sample:
    """One prompt."""

    prompt: str | list[int]
    num_input: int
    num_output: int


def samples(flags: DataFlags, tokenize: Tokenize, pool: Sequence[int], context: int | None) -> list[Sample]:
    """The prompts that the flags ask for.

    Args:
        tokenize: text to ids without special tokens.
        pool: ids to make random prompts of.
        context: most tokens of prompt and output, if known.

    Raises: ValueError, OSError in one line.
    """
    generator = random.Random(flags.seed)
    if flags.dataset_name == "random":
        return _random(flags, generator, pool, flags.lengths(context))
    path = os.path.expanduser(flags.dataset_path or "")
    if flags.dataset_name == "custom":
        found = list(_custom(path, flags, tokenize))
    else:
        found = _sharegpt(path, flags, tokenize, generator, context)
    if not found:
        raise ValueError(f"[{flags.dataset_path}] has no usable prompt.")
    # A short file is read again from its beginning.
    return [found[index % len(found)] for index in range(flags.num_prompts)]


def token_pool(tokenize: Tokenize) -> list[int]:
    """Ids of common words. Raises: ValueError if there are none."""
    pool = sorted(set(tokenize(SAMPLE)))
    if not pool:
        raise ValueError("the tokenizer makes no tokens of a text.")
    return pool


def _random(flags: DataFlags, generator: random.Random, pool: Sequence[int], lengths: tuple[int, int]) -> list[Sample]:
    def around(length: int) -> int:
        ratio = flags.random_range_ratio
        return max(1, generator.randint(int(length * (1 - ratio)), int(length * (1 + ratio))))

    prefix = generator.choices(pool, k=flags.random_prefix_len)
    result = []
    for _ in range(flags.num_prompts):
        prompt = prefix + generator.choices(pool, k=around(lengths[0]))
        result.append(Sample(prompt, len(prompt), around(lengths[1])))
    return result


def _sharegpt(
    path: str, flags: DataFlags, tokenize: Tokenize, generator: random.Random, context: int | None
) -> list[Sample]:
    with open(path, "rb") as file:
        try:
            conversations = json.load(file)
            turns = [[str(turn["value"]) for turn in one["conversations"][:2]] for one in conversations]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"[{flags.dataset_path}] is not ShareGPT's JSON of conversations.") from None
    pairs = [pair for pair in turns if len(pair) == 2]
    generator.shuffle(pairs)
    result: list[Sample] = []
    for prompt, answer in pairs:
        if len(result) == flags.num_prompts:
            break
        num_input = len(tokenize(prompt))
        num_output = flags.sharegpt_output_len or len(tokenize(answer))
        longest = min(LONGEST_IN_ALL, context or LONGEST_IN_ALL)
        if min(num_input, num_output) >= SHORTEST and num_input <= LONGEST_PROMPT and num_input + num_output <= longest:
            result.append(Sample(prompt, num_input, num_output))
    return result


def _custom(path: str, flags: DataFlags, tokenize: Tokenize) -> Iterator[Sample]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                prompt, num_output = entry["prompt"], entry.get("output_tokens", flags.custom_output_len)
            except (ValueError, KeyError, TypeError, AttributeError):
                prompt, num_output = None, None
            if not isinstance(prompt, str) or not isinstance(num_output, int) or num_output < 1:
                raise ValueError(
                    f'[{flags.dataset_path}] line {number} is not a JSON object with "prompt", a string, and maybe '
                    '"output_tokens", a number.'
                )
            yield Sample(prompt, len(tokenize(prompt)), num_output)
