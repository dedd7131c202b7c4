"""Golden checkpoints of ../shared/golden: what a folder holds, and how the engine's answers are held against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

# Largest error of a log-probability in float32; a right implementation reaches 1e-5 to 5e-5.
TOLERANCE = 1e-3
NUM_GENERATED = 24


@dataclass
class Case:
    """One prompt with the reference's answer."""

    prompt: list[int]
    logprobs: np.ndarray  # [L, V] log-softmax at every position of the prompt
    generated: list[int]


def load_cases(folder: Path) -> list[Case]:
    """The three prompts of a golden folder."""
    arrays = load_file(folder / "golden.safetensors")
    cases = []
    for i in range(3):
        logits = arrays[f"logits_{i}"].astype(np.float64)
        top = logits.max(axis=-1, keepdims=True)
        logprobs = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
        cases.append(Case(arrays[f"prompt_{i}"].tolist(), logprobs, arrays[f"gen_{i}"].tolist()))
    return cases


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
