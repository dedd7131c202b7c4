"""Every family the engine has, on tiny checkpoints made here, against the numpy reference; see checkpoints.py.

Log-probabilities are compared with the reference within a tolerance, tokens exactly; between the engine's own ways of
computing the same request everything must be equal to the last bit. Two engines are opened for each checkpoint: a roomy
one, and one that takes seven tokens at a time, has too few blocks for all, and remembers prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import MARGIN, NUM_GENERATED, rows, write
from goldens import ON_GPU, Case, bits, check_output, generate, generate_crowded, greedy, log_softmax, open_engine
from reference import FAMILIES, Reference

from quire import _core

VARIANTS = rows()
GREEDY = greedy(NUM_GENERATED)
WITH_PROMPT = greedy(NUM_GENERATED, prompt_logprobs=5)
# Float32 stays within 5e-5 of the reference here; mistaking one GELU for the other shows as 1e-3.
TOLERANCE = 2e-4


@dataclass
class Answers:
    """What two engines said to the same prompts."""

    cases: list[Case]
    alone: list[Any]
    batched: list[Any]
    chunked: list[Any]
    crowded: list[Any]  # all prompts, over and over
    warm: list[Any]
    eager: list[Any]  # without recorded graphs, where there are any
    num_cached_tokens: int


def reference_case(model: Reference, prompt: list[int], tokens: list[int]) -> Case:
    """What the reference says to the prompt and, token by token, to the engine's continuation of it. If the engine
    always took what the reference holds best, then the two continuations are the same."""
    logits = model.logits(prompt + tokens[:-1])
    logprobs, continued = log_softmax(logits), logits[len(prompt) - 1 :]
    generated = continued.argmax(axis=-1).tolist()
    if generated == tokens:
        second, best = np.partition(continued, -2)[:, -2:].T
        assert (best - second).min() > MARGIN, "the variant has changed and needs another seed: see find_seeds.py"
    return Case(prompt, logprobs[: len(prompt)], generated, logprobs[len(prompt) - 1 :])


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: variant.name)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    variant, prompts = request.param, request.param.prompts()
    folder = write(variant, tmp_path_factory.mktemp(variant.name) / "model")
    try:
        with open_engine(folder, enable_prefix_caching=False, max_model_len=96) as llm:
            alone = [generate(llm, [prompt], WITH_PROMPT)[0] for prompt in prompts]
            batched = generate(llm, prompts, GREEDY)
        tight = {"max_num_batched_tokens": 7, "forced_num_gpu_blocks": 12, "block_size": 8, "max_model_len": 96}
        with open_engine(folder, enable_prefix_caching=True, **tight) as llm:
            chunked = generate(llm, prompts, WITH_PROMPT)
            crowded = generate_crowded(llm, prompts, GREEDY)
            generate(llm, prompts[2:], GREEDY)
            before = llm.llm_engine.stats().num_cached_tokens
            warm = generate(llm, prompts[2:], GREEDY)
            num_cached_tokens = llm.llm_engine.stats().num_cached_tokens - before
        eager: list[Any] = []
        if ON_GPU:
            with open_engine(folder, enable_prefix_caching=False, max_model_len=96, enforce_eager=True) as llm:
                eager = generate(llm, prompts, GREEDY)
    finally:
        remove(folder)
    model = Reference(variant.config, variant.tensors())
    cases = [
        reference_case(model, prompt, output.outputs[0].token_ids)
        for prompt, output in zip(prompts, alone, strict=True)
    ]
    return Answers(cases, alone, batched, chunked, crowded, warm, eager, num_cached_tokens)


def remove(folder: Path) -> None:
    """All checkpoints together would fill a small disk."""
    for path in folder.iterdir():
        path.unlink()


def test_prompt_logprobs_and_greedy_tokens_match_the_reference(answers: Answers) -> None:
    for case, output in zip(answers.cases, answers.alone, strict=True):
        check_output(case, output, TOLERANCE)


def test_batched_together_equals_alone(answers: Answers) -> None:
    assert [bits(output) for output in answers.batched] == [bits(output) for output in answers.alone]


def test_chunked_by_seven_tokens_equals_alone(answers: Answers) -> None:
    for case, output in zip(answers.cases, answers.chunked, strict=True):
        check_output(case, output, TOLERANCE)
    assert [bits(output) for output in answers.chunked] == [bits(output) for output in answers.alone]


def test_preempted_equals_alone(answers: Answers) -> None:
    expected = [bits(output) for output in answers.alone]
    assert [bits(output) for output in answers.crowded] == expected * (len(answers.crowded) // len(expected))


def test_warm_prefix_cache_equals_alone(answers: Answers) -> None:
    assert answers.num_cached_tokens > 0
    assert [bits(output) for output in answers.warm] == [bits(output) for output in answers.alone[2:]]


@pytest.mark.skipif(not ON_GPU, reason="only a GPU records graphs")
def test_eager_equals_graphs(answers: Answers) -> None:
    assert [bits(output) for output in answers.eager] == [bits(output) for output in answers.batched]


@pytest.mark.parametrize("name", ["phi3_su", "phi4_mini"])
def test_a_sequence_that_outgrows_the_short_factors_is_computed_again_with_the_long_ones(
    name: str, tmp_path: Path
) -> None:
    variant = next(variant for variant in VARIANTS if variant.name == name)
    model = Reference(variant.config, variant.tensors())
    prompts, params = variant.prompts()[:2], greedy(30)
    with open_engine(write(variant, tmp_path / "model"), enable_prefix_caching=False) as llm:
        alone = [generate(llm, [prompt], params)[0] for prompt in prompts]
        assert [bits(output) for output in generate(llm, prompts * 3, params)] == [bits(output) for output in alone] * 3
    tight = {"max_num_batched_tokens": 7, "forced_num_gpu_blocks": 12, "block_size": 8, "max_model_len": 96}
    with open_engine(tmp_path / "model", enable_prefix_caching=True, **tight) as llm:
        for _ in range(3):
            crowded = generate(llm, prompts * 3, params)
            assert [bits(output) for output in crowded] == [bits(output) for output in alone] * 3
    for prompt, output in zip(prompts, alone, strict=True):
        tokens = output.outputs[0].token_ids
        assert len(prompt) < 32 < len(prompt) + len(tokens)
        for step, token in enumerate(tokens):
            expected = log_softmax(model.logits(prompt + tokens[:step])[-1])
            assert token == expected.argmax(), step
            for other, logprob in output.outputs[0].logprobs[step].items():
                assert abs(logprob.logprob - expected[other]) < TOLERANCE, (step, other)


@pytest.mark.parametrize("architecture", [name for _, names in _core.Engine.families() for name in names])
def test_every_architecture_of_the_engine_has_a_variant(architecture: str) -> None:
    assert architecture in {variant.architecture for variant in VARIANTS}


def test_every_family_of_the_reference_has_a_variant() -> None:
    assert FAMILIES.keys() == {variant.architecture for variant in VARIANTS}


def test_variants_are_told_apart_by_name() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
