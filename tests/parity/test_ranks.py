"""Every golden checkpoint on two and on four ranks: as near to the reference as on one, and the same bits always."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import rows, write
from goldens import (
    DEVICE,
    ON_GPU,
    Case,
    bits,
    check_output,
    corrected_folder,
    generate,
    generate_crowded,
    golden_folders,
    greedy,
    load_cases,
    open_engine,
    run,
)

from quire import _core

FOLDERS = golden_folders()
NUM_GENERATED = 24
FEW = greedy(12)
WITH_PROMPT = greedy(NUM_GENERATED, prompt_logprobs=3)

# What cannot be cut, and why. All others have four heads, and feed-forward columns that four divides.
UNEVEN = {("baichuan2_13b", 2): 1, ("baichuan2_13b", 4): 1, ("llama_gqa", 4): 6}


def most_ranks() -> int:
    kinds = {kind.name: kind.num_devices for kind in _core.Engine.devices()}
    return kinds[DEVICE.split(":")[0]] if ON_GPU else 4


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corrected_folder(request.param, tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[Case]:
    return load_cases(folder)


def open_ranks(folder: Path, ranks: int, **options: Any) -> Any:
    if ranks > most_ranks():
        pytest.skip(f"no {ranks} devices here")
    return open_engine(folder, tensor_parallel_size=ranks, **options)


@pytest.mark.parametrize("ranks", [2, 4])
def test_prompt_logprobs_and_greedy_tokens_match_the_reference(folder: Path, cases: list[Case], ranks: int) -> None:
    if heads := UNEVEN.get((folder.name, ranks)):
        with pytest.raises(ValueError, match=f"num_attention_heads={heads}, tensor_parallel_size={ranks}: set"):
            open_ranks(folder, ranks)
        return
    with open_ranks(folder, ranks) as llm:
        for case in cases:
            check_output(case, run(llm, [case], WITH_PROMPT)[0])


def test_batched_chunked_preempted_and_cached_equal_alone(folder: Path, cases: list[Case]) -> None:
    if (folder.name, 2) in UNEVEN:
        pytest.skip("cannot be cut")
    with open_ranks(folder, 2, enable_prefix_caching=False) as llm:
        alone = [bits(run(llm, [case], FEW)[0]) for case in cases]
        assert [bits(output) for output in run(llm, cases, FEW)] == alone
    with open_ranks(folder, 2, max_num_batched_tokens=7) as llm:
        assert [bits(output) for output in run(llm, cases, FEW)] == alone
        assert [bits(output) for output in run(llm, cases, FEW)] == alone
        assert llm.llm_engine.stats().num_cached_tokens > 0
    with open_ranks(folder, 2, forced_num_gpu_blocks=12, max_model_len=96, block_size=8) as llm:
        outputs = generate_crowded(llm, [case.prompt for case in cases], FEW)
        assert [bits(output) for output in outputs] == alone * (len(outputs) // len(alone))


@pytest.mark.skipif(ON_GPU, reason="as many ranks as a variant's heads allow: more than there are GPUs")
def test_every_variant_that_can_be_cut_gives_what_one_rank_gives(tmp_path: Path) -> None:
    num_cut = 0
    for variant in rows():
        folder, prompts = write(variant, tmp_path / variant.name), variant.prompts()
        with open_engine(folder, max_model_len=96) as llm:
            expected = generate(llm, prompts, WITH_PROMPT)
        for ranks in (2, 3, 4, 8):
            try:
                llm = open_engine(folder, max_model_len=96, tensor_parallel_size=ranks)
            except ValueError as error:
                assert str(error).startswith("[parallel]"), (variant.name, error)
                continue
            with llm:
                outputs = generate(llm, prompts, WITH_PROMPT)
            num_cut += 1
            for output, one in zip(outputs, expected, strict=True):
                assert output.outputs[0].token_ids == one.outputs[0].token_ids, (variant.name, ranks)
                for row, of_one in zip(output.prompt_logprobs[1:], one.prompt_logprobs[1:], strict=True):
                    errors = [abs(row[token].logprob - of_one[token].logprob) for token in row if token in of_one]
                    assert max(errors) < 1e-4, (variant.name, ranks)
    assert num_cut > 50
