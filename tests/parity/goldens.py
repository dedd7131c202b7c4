"""Expected answers, from ../shared/golden or from the reference, and how the engine's answers are held against them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from quire import LLM, SamplingParams

DEVICE = os.environ.get("QUIRE_TEST_DEVICE", "cpu")
ON_GPU = not DEVICE.startswith("cpu")

# Largest error of a log-probability in float32; a right implementation reaches 1e-5 to 5e-5. A GPU makes its sums in
# other orders.
TOLERANCE = 2e-3 if ON_GPU else 1e-3

# The KV cache that the CPU would take of its own accord, rather than all of a GPU's memory for each of many engines.
GPU_OPTIONS = {"kv_cache_memory_bytes": 64 << 20, "max_model_len": "auto"} if ON_GPU else {}

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"

# Sections of config.json with what the golden answers were really computed with. transformers, which made them, builds
# MPT's ALiBi with 8 whatever alibi_bias_max says; the models are trained and served with what it says.
CORRECTIONS = {"mpt_clip": {"attn_config": {"alibi_bias_max": 8}}}


def golden_folders() -> list[Path]:
    """The golden checkpoints that are neither quantised nor adapters; none if they are not beside the repository."""
    folders = [path.parent for path in sorted(GOLDEN.glob("*/config.json"))]
    return [folder for folder in folders if not folder.name.startswith(("quant_", "lora_"))]


def corrected_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    for section, fields in CORRECTIONS.get(folder.name, {}).items():
        config[section] |= fields
    return dict(config)


def corrected_folder(folder: Path, parent: Path) -> Path:
    """The folder itself, or a copy under `parent` with its corrections."""
    if folder.name not in CORRECTIONS:
        return folder
    copy = parent / folder.name
    shutil.copytree(folder, copy)
    (copy / "config.json").write_text(json.dumps(corrected_config(folder)))
    return copy


@dataclass
class Case:
    """One prompt with the reference's answer."""

    prompt: list[int]
    logprobs: np.ndarray  # [L, V] log-softmax at every position of the prompt
    generated: list[int]
    generated_logprobs: np.ndarray  # [N, V] from which each token of `generated` was taken
    relative: bool = False  # only some columns are known, the others are NaN: rows are right but for a constant


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def load_cases(folder: Path) -> list[Case]:
    """The three prompts of a golden folder."""
    arrays = load_file(folder / "golden.safetensors")
    columns = arrays.get("columns")

    def rows(name: str) -> np.ndarray:
        if columns is None:
            return log_softmax(arrays[name])
        known = np.full((len(arrays[name]), int(columns.max()) + 1), np.nan, np.float32)
        known[:, columns] = arrays[name]
        return known

    return [
        Case(
            arrays[f"prompt_{i}"].tolist(),
            rows(f"logits_{i}"),
            arrays[f"gen_{i}"].tolist(),
            rows(f"gen_logits_{i}"),
            relative=columns is not None,
        )
        for i in range(3)
    ]


def check_output(case: Case, output: Any, tolerance: float = TOLERANCE) -> None:
    """Hold a RequestOutput with log-probabilities, perhaps of the prompt too, against the reference."""
    completion = output.outputs[0]
    assert completion.finish_reason == "length"
    assert completion.token_ids == case.generated
    check_rows(completion.logprobs, case.generated_logprobs, case.generated, tolerance, case.relative)
    if output.prompt_logprobs is not None:
        assert output.prompt_logprobs[0] is None
        check_rows(output.prompt_logprobs[1:], case.logprobs[:-1], case.prompt[1:], tolerance, case.relative)


def check_rows(
    rows: list[Any], expected: np.ndarray, tokens: list[int], tolerance: float, relative: bool = False
) -> None:
    """Each row maps some tokens to their log-probabilities, the token that came among them."""
    assert all(token in row for row, token in zip(rows, tokens, strict=True))
    errors = row_errors(rows, expected, relative)
    assert max(errors) < tolerance, (int(np.argmax(errors)), max(errors))


def row_errors(rows: list[Any], expected: np.ndarray, relative: bool = False) -> list[float]:
    """Errors of all log-probabilities, but for those that are not known."""
    errors: list[float] = []
    for position, row in enumerate(rows):
        best = max(row, key=lambda token: row[token].logprob)
        shift = row[best].logprob - expected[position, best] if relative else 0.0
        known = [token for token in row if token < expected.shape[1] and not np.isnan(expected[position, token])]
        assert len(known) >= (3 if relative else len(row)) - 1
        errors += [abs(row[token].logprob - expected[position, token] - shift) for token in known]
    return errors


def greedy(num_tokens: int, prompt_logprobs: int | None = None) -> SamplingParams:
    return SamplingParams(
        temperature=0, max_tokens=num_tokens, ignore_eos=True, logprobs=2, prompt_logprobs=prompt_logprobs
    )


def open_engine(folder: Path, dtype: str = "float32", **options: Any) -> LLM:
    """On the tested device, where equal requests get equal bits."""
    options = {"device": DEVICE, "deterministic": True, **GPU_OPTIONS, **options}
    return LLM(model=str(folder), skip_tokenizer_init=True, dtype=dtype, disable_log_stats=True, **options)


def generate(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[Any]:
    return llm.generate(prompt_token_ids=prompts, sampling_params=params, use_tqdm=False)


def run(llm: LLM, cases: list[Case], params: SamplingParams) -> list[Any]:
    return generate(llm, [case.prompt for case in cases], params)


def generate_crowded(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[Any]:
    """Three of each prompt at once, for an engine with too few blocks for them: again until one was preempted.

    On a busy machine the first requests may be done before the last ones come; then there is room for all.
    """
    before = llm.llm_engine.stats().num_preemptions
    outputs: list[Any] = []
    for _ in range(100):
        outputs += generate(llm, prompts * 3, params)
        if llm.llm_engine.stats().num_preemptions > before:
            break
    assert llm.llm_engine.stats().num_preemptions > before, "there is room for all"
    return outputs


def bits(output: Any) -> list[tuple[int, float]]:
    """Tokens with the exact log-probabilities they were chosen with."""
    completion = output.outputs[0]
    return [(token, row[token].logprob) for token, row in zip(completion.token_ids, completion.logprobs, strict=True)]
