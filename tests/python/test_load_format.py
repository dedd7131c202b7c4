"""Weights from elsewhere than the folder's files."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from quire import LLM, SamplingParams


def test_dummy_weights_need_nothing_but_the_config(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "model")
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    answers = []
    for _ in range(2):
        with LLM(str(folder), load_format="dummy", skip_tokenizer_init=True) as llm:
            answers.append(llm.generate(prompt_token_ids=[[1, 2, 3]], sampling_params=params)[0].outputs[0].token_ids)
    assert len(answers[0]) == 8
    assert answers[0] == answers[1]
    with pytest.raises(FileNotFoundError):
        LLM(str(folder), skip_tokenizer_init=True)


def test_other_sources_of_weights_are_not_offered(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="load_format='npcache'"):
        LLM(str(tiny.make(tmp_path / "model")), load_format="npcache")
