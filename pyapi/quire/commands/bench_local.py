"""Models that are loaded here to be measured."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from quire.arguments import EngineArgs
from quire.commands import console
from quire.commands.bench_data import Tokenize, token_pool

if TYPE_CHECKING:
    from quire.llm import LLM


def open_model(arguments: EngineArgs) -> LLM:
    """The model, and a note about how long it took to load."""
    from quire.llm import LLM

    start = time.monotonic()
    llm = LLM.from_engine_args(arguments)
    console.note(f"loaded in {console.seconds(time.monotonic() - start)}")
    return llm


def tokenizer_of(llm: LLM) -> Tokenize:
    """Text to ids without special tokens.

    Raises: ValueError at its call if the model was opened without a tokenizer.
    """

    def tokenize(text: str) -> list[int]:
        tokenizer = llm.get_tokenizer()
        if tokenizer is None:
            raise ValueError("texts need a tokenizer: leave out --skip-tokenizer-init, or take random prompts.")
        return list(tokenizer.encode(text, add_special_tokens=False))

    return tokenize


def pool_of(llm: LLM) -> list[int]:
    """Ids for random prompts: common words, or any ids where there is no tokenizer."""
    if llm.get_tokenizer() is None:
        return list(range(llm.llm_engine.get_model_config().vocab_size))
    return token_pool(tokenizer_of(llm))


def random_prompts(llm: LLM, count: int, length: int, seed: int) -> list[list[int]]:
    """Prompts of random tokens."""
    generator, pool = random.Random(seed), pool_of(llm)
    return [generator.choices(pool, k=length) for _ in range(count)]
