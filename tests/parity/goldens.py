"""Expected answers, from ../shared/golden or from the reference, and how the engine's answers are held against them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from quire import LLM, SamplingParams

# Largest error of a log-probability in float32; a right implementation reaches 1e-5 to 5e-5.
TOLERANCE = 1e-3


@dataclass
class Case:
    """One prompt with the reference's answer."""

    prompt: list[int]
    logprobs: np.ndarray  # [L, V] log-softmax at every position of the prompt
    generated: list[int]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def load_cases(folder: Path) -> list[Case]:
    """The three prompts of a golden folder."""
    arrays = load_file(folder / "golden.safetensors")
    return [
        Case(arrays[f"prompt_{i}"].tolist(), log_softmax(arrays[f"logits_{i}"]), arrays[f"gen_{i}"].tolist())
        for i in range(3)
    ]


def check_output(case: Case, output: Any) -> None:
    """Hold a RequestOutput with prompt log-probabilities against the reference."""
    assert output.outputs[0].finish_reason == "length"
    assert output.outputs[0].token_ids == case.generated
    if output.prompt_logprobs is None:
        return
    assert output.prompt_logprobs[0] is None
    for position in range(1, len(case.prompt)):
        for token, logprob in output.prompt_logprobs[position].items():
            expected = case.logprobs[position - 1, token]
            assert abs(logprob.logprob - expected) < TOLERANCE, (position, token, logprob.logprob, expected)
        assert case.prompt[position] in output.prompt_logprobs[position]


def greedy(num_tokens: int, prompt_logprobs: int | None = None) -> SamplingParams:
    return SamplingParams(
        temperature=0, max_tokens=num_tokens, ignore_eos=True, logprobs=2, prompt_logprobs=prompt_logprobs
    )


def open_engine(folder: Path, **options: Any) -> LLM:
    return LLM(model=str(folder), skip_tokenizer_init=True, dtype="float32", disable_log_stats=True, **options)


def run(llm: LLM, cases: list[Case], params: SamplingParams) -> list[Any]:
    return llm.generate(prompt_token_ids=[case.prompt for case in cases], sampling_params=params, use_tqdm=False)


def bits(output: Any) -> list[tuple[int, float]]:
    """Tokens with the exact log-probabilities they were chosen with."""
    completion = output.outputs[0]
    return [(token, row[token].logprob) for token, row in zip(completion.token_ids, completion.logprobs, strict=True)]
