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
    generated_logprobs: np.ndarray  # [N, V] from which each token of `generated` was taken


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def load_cases(folder: Path) -> list[Case]:
    """The three prompts of a golden folder."""
    arrays = load_file(folder / "golden.safetensors")
    cases = []
    for i in range(3):
        logprobs, generated_logprobs = log_softmax(arrays[f"logits_{i}"]), log_softmax(arrays[f"gen_logits_{i}"])
        cases.append(Case(arrays[f"prompt_{i}"].tolist(), logprobs, arrays[f"gen_{i}"].tolist(), generated_logprobs))
    return cases


def check_output(case: Case, output: Any, tolerance: float = TOLERANCE) -> None:
    """Hold a RequestOutput with log-probabilities, perhaps of the prompt too, against the reference."""
    completion = output.outputs[0]
    assert completion.finish_reason == "length"
    assert completion.token_ids == case.generated
    check_rows(completion.logprobs, case.generated_logprobs, case.generated, tolerance)
    if output.prompt_logprobs is not None:
        assert output.prompt_logprobs[0] is None
        check_rows(output.prompt_logprobs[1:], case.logprobs[:-1], case.prompt[1:], tolerance)


def check_rows(rows: list[Any], expected: np.ndarray, tokens: list[int], tolerance: float) -> None:
    """Each row maps some tokens to their log-probabilities, the token that came among them."""
    for position, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        assert token in row
        for other, logprob in row.items():
            right = expected[position, other]
            assert abs(logprob.logprob - right) < tolerance, (position, other, logprob.logprob, right)


def greedy(num_tokens: int, prompt_logprobs: int | None = None) -> SamplingParams:
    return SamplingParams(
        temperature=0, max_tokens=num_tokens, ignore_eos=True, logprobs=2, prompt_logprobs=prompt_logprobs
    )


def open_engine(folder: Path, **options: Any) -> LLM:
    return LLM(model=str(folder), skip_tokenizer_init=True, dtype="float32", disable_log_stats=True, **options)


def generate(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[Any]:
    return llm.generate(prompt_token_ids=prompts, sampling_params=params, use_tqdm=False)


def run(llm: LLM, cases: list[Case], params: SamplingParams) -> list[Any]:
    return generate(llm, [case.prompt for case in cases], params)


def bits(output: Any) -> list[tuple[int, float]]:
    """Tokens with the exact log-probabilities they were chosen with."""
    completion = output.outputs[0]
    return [(token, row[token].logprob) for token, row in zip(completion.token_ids, completion.logprobs, strict=True)]
