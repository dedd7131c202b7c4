"""The forms in which prompts and parameters may come."""

from typing import Any

import numpy as np
import pytest

from quire import SamplingParams
from quire.prompts import Prompt, encode_prompts, read_prompts, read_sampling

FORMS: list[tuple[Any, Any, list[Prompt]]] = [
    ("a", None, [Prompt("a", None)]),
    (["a", "b"], None, [Prompt("a", None), Prompt("b", None)]),
    (("a", "b"), None, [Prompt("a", None), Prompt("b", None)]),
    ({"prompt": "a"}, None, [Prompt("a", None)]),
    ({"prompt_token_ids": [1, 2]}, None, [Prompt(None, [1, 2])]),
    ([{"prompt": "a", "prompt_token_ids": [1]}, "b"], None, [Prompt("a", [1]), Prompt("b", None)]),
    ([1, 2, 3], None, [Prompt(None, [1, 2, 3])]),
    ([[1, 2], [3]], None, [Prompt(None, [1, 2]), Prompt(None, [3])]),
    (np.array([1, 2]), None, [Prompt(None, [1, 2])]),
    (None, [[1, 2], [3]], [Prompt(None, [1, 2]), Prompt(None, [3])]),
    (None, [1, 2], [Prompt(None, [1, 2])]),
    (["a", "b"], [[1], [2]], [Prompt("a", [1]), Prompt("b", [2])]),
    ("a", [[1]], [Prompt("a", [1])]),
    ("a", [1, 2], [Prompt("a", [1, 2])]),
    ([], None, []),
    (None, [], []),
]

WRONG: list[tuple[Any, Any, str]] = [
    (None, None, "Either prompts or prompt_token_ids must be provided."),
    (["a"], [[1], [2]], "The lengths of prompts and prompt_token_ids must be the same"),
    (5, None, "prompts must be a string"),
    (b"a", None, "prompts must be a string"),
    (["a", 5], None, r"prompts\[1\] must be a list of token ids, got 5"),
    (["a", None], None, r"prompts\[1\] must be a list of token ids, got None"),
    ({"text": "a"}, None, r"prompts\[0\] must have the key 'prompt' or 'prompt_token_ids', got \['text'\]"),
    ({}, None, r"prompts\[0\] must have the key"),
    ({"prompt": 5}, None, r"prompts\[0\]\['prompt'\] must be a string, got 5"),
    ("\ud83d", None, r"prompts\[0\] must be valid Unicode"),
    ([[1, "2"]], None, r"prompts\[0\]\[1\] must be an integer, got '2'"),
    ([[1, -2]], None, r"prompts\[0\]\[1\] must be a token id of the vocabulary, got -2"),
    (None, [[1], [2**40]], r"prompt_token_ids\[1\]\[0\] must be a token id of the vocabulary"),
    (None, [[1], "a"], r"prompt_token_ids\[1\] must be a list of token ids, got 'a'"),
    (None, "a", r"prompt_token_ids\[0\] must be a list of token ids, got 'a'"),
]


@pytest.mark.parametrize(("prompts", "ids", "expected"), FORMS, ids=str)
def test_forms_are_brought_to_one(prompts: Any, ids: Any, expected: list[Prompt]) -> None:
    assert read_prompts(prompts, ids) == expected


@pytest.mark.parametrize(("prompts", "ids", "message"), WRONG, ids=str)
def test_wrong_forms_raise_value_error_naming_the_prompt(prompts: Any, ids: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompts(prompts, ids)


def test_images_are_not_offered() -> None:
    with pytest.raises(NotImplementedError, match="multi_modal_data"):
        read_prompts({"prompt": "a", "multi_modal_data": {"image": 1}}, None)


def test_sampling_is_shared_or_one_for_each() -> None:
    one, other = SamplingParams(), SamplingParams(top_k=2)
    assert read_sampling(None, 2) == [one, one]
    assert read_sampling(other, 2) == [other, other]
    assert read_sampling([one, other], 2) == [one, other]
    with pytest.raises(ValueError, match="The lengths of prompts and sampling_params must be the same"):
        read_sampling([one], 2)
    with pytest.raises(ValueError, match="sampling_params must be"):
        read_sampling({"top_k": 2}, 1)


def test_text_is_encoded_and_given_ids_are_kept() -> None:
    prompts = [Prompt("ab", None), Prompt("c", [7]), Prompt("d", None)]
    encode_prompts(prompts, lambda text: map(ord, text))
    assert [prompt.token_ids for prompt in prompts] == [[97, 98], [7], [100]]


def test_a_prompt_without_tokens_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match=r"prompts\[1\] is empty"):
        encode_prompts([Prompt(None, [1]), Prompt(None, [])], None)
    with pytest.raises(ValueError, match=r"prompts\[0\] is empty"):
        encode_prompts([Prompt("", None)], lambda text: [])


def test_text_that_the_tokenizer_refuses_is_named_by_its_number() -> None:
    def refuse(text: str) -> list[int]:
        raise ValueError(f"no {text}")

    with pytest.raises(ValueError, match=r"prompts\[1\]: no b"):
        encode_prompts([Prompt("a", [1]), Prompt("b", None)], refuse)


def test_text_without_a_tokenizer_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"prompts\[1\] is text.*skip_tokenizer_init=True; give prompt_token_ids"):
        encode_prompts([Prompt(None, [1]), Prompt("a", None)], None)
