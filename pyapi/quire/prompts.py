"""What users give as prompts, in all the forms they know, brought to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from quire import checks
from quire.sampling import SamplingParams

_DICT_KEYS = {"prompt", "prompt_token_ids", "multi_modal_data"}


@dataclass
class Prompt:
    """One prompt: text, token ids, or both (the ids then count and the text is only shown in the output)."""

    text: str | None
    token_ids: list[int] | None


def read_prompts(prompts: Any, prompt_token_ids: Any) -> list[Prompt]:
    """Bring the first and third argument of LLM.generate to a list.

    Raises: ValueError naming the prompt that is wrong; NotImplementedError for images.
    """
    if prompts is None and prompt_token_ids is None:
        raise ValueError("Either prompts or prompt_token_ids must be provided.")
    items = None if prompts is None else _as_items("prompts", prompts)
    id_lists = None if prompt_token_ids is None else _as_items("prompt_token_ids", prompt_token_ids)
    if items is None:
        ids = [checks.as_token_ids(f"prompt_token_ids[{index}]", value) for index, value in enumerate(id_lists or [])]
        return [Prompt(None, value) for value in ids]
    result = [_read_prompt(f"prompts[{index}]", item) for index, item in enumerate(items)]
    if id_lists is not None:
        if len(id_lists) != len(result):
            raise ValueError(
                "The lengths of prompts and prompt_token_ids must be the same, "
                f"got {len(result)} prompts and {len(id_lists)} lists of ids."
            )
        for index, (prompt, value) in enumerate(zip(result, id_lists, strict=True)):
            prompt.token_ids = checks.as_token_ids(f"prompt_token_ids[{index}]", value)
    return result


def _as_items(name: str, value: Any) -> list[Any]:
    """One prompt or many -> a list of prompts. A list of numbers is one prompt of token ids."""
    if isinstance(value, (str, dict)):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a string, a dict, a list of token ids or a list of these, got {value!r}.")
    items = list(value)
    if items and not isinstance(items[0], (str, dict, Iterable)):
        return [items]
    return items


def _read_prompt(name: str, item: Any) -> Prompt:
    if isinstance(item, str):
        return Prompt(checks.as_text(name, item), None)
    if not isinstance(item, dict):
        return Prompt(None, checks.as_token_ids(name, item))
    unknown = set(item) - _DICT_KEYS
    text, token_ids = item.get("prompt"), item.get("prompt_token_ids")
    if unknown or (text is None and token_ids is None):
        raise ValueError(f"{name} must have the key 'prompt' or 'prompt_token_ids', got {sorted(map(str, item))}.")
    if item.get("multi_modal_data") is not None:
        raise NotImplementedError(f"{name}: multi_modal_data is not offered; use text prompts.")
    return Prompt(
        None if text is None else checks.as_text(f"{name}['prompt']", text),
        None if token_ids is None else checks.as_token_ids(f"{name}['prompt_token_ids']", token_ids),
    )


def read_sampling(sampling_params: Any, num_prompts: int) -> list[SamplingParams]:
    """One for all, one for each, or none -> one for each.

    Raises: ValueError if their numbers differ.
    """
    if sampling_params is None:
        sampling_params = SamplingParams()
    if isinstance(sampling_params, SamplingParams):
        return [sampling_params] * num_prompts
    if not isinstance(sampling_params, (list, tuple)):
        raise ValueError(f"sampling_params must be a SamplingParams or a list of them, got {sampling_params!r}.")
    if len(sampling_params) != num_prompts:
        raise ValueError(
            "The lengths of prompts and sampling_params must be the same, "
            f"got {num_prompts} prompts and {len(sampling_params)} sampling_params."
        )
    return list(sampling_params)


def encode_prompts(prompts: list[Prompt], encode: Callable[[str], Iterable[int]] | None) -> None:
    """Give every prompt its token ids.

    Args:
        encode: text to ids; None if there is no tokenizer.

    Raises: ValueError for text without a tokenizer, for text that it refuses, and for a prompt without tokens.
    """
    for index, prompt in enumerate(prompts):
        if prompt.token_ids is None:
            if encode is None:
                raise ValueError(
                    f"prompts[{index}] is text, but the model was opened with skip_tokenizer_init=True; "
                    "give prompt_token_ids."
                )
            try:
                prompt.token_ids = list(encode(prompt.text or ""))
            except ValueError as error:
                raise ValueError(f"prompts[{index}]: {error}") from None
        if not prompt.token_ids:
            raise ValueError(f"prompts[{index}] is empty; a prompt needs at least one token.")
