"""A real, trained, tiny model: ids, text and log-probabilities of its golden file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from goldens import TOLERANCE

from quire import LLM, SamplingParams

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260k"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no models beside the repository")


def test_greedy_stories_match_the_reference() -> None:
    golden = json.loads((FOLDER / "golden.json").read_text())
    params = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True, logprobs=0)
    with LLM(model=str(FOLDER), dtype="float32") as llm:
        outputs = llm.generate([story["prompt"] for story in golden], params, use_tqdm=False)
    for story, output in zip(golden, outputs, strict=True):
        completion = output.outputs[0]
        assert output.prompt_token_ids == story["prompt_token_ids"]
        assert completion.token_ids == story["greedy_token_ids"]
        assert completion.text == story["greedy_text"]
        for row, token, expected in zip(completion.logprobs, completion.token_ids, story["logprobs"], strict=True):
            assert row[token].logprob == pytest.approx(expected, abs=TOLERANCE)
