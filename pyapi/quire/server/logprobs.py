"""Log-probabilities in the two shapes of OpenAI's API."""

from __future__ import annotations

from typing import Any

Candidates = list[tuple[int, float, int, str]]
"""(token id, log-probability, rank, text): the chosen token first, then the best ones."""

LEAST = -9999.0
"""JSON has no infinity: what OpenAI writes for a token that could not be."""


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)


class LegacyLogprobs:
    """Of completions: lists side by side. Offsets count on from piece to piece of a stream."""

    def __init__(self, num_best: int) -> None:
        self._num_best = num_best
        self._offset = 0

    def piece(self, positions: list[Candidates], first: list[str] | None = None) -> dict[str, Any]:
        """The next positions. `first`: texts of tokens in front that have no log-probability, a prompt's first one."""
        tokens = [*(first or []), *(candidates[0][3] for candidates in positions)]
        none: list[None] = [None] * len(first or [])
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {
            "text_offset": offsets,
            "token_logprobs": [*none, *(_finite(candidates[0][1]) for candidates in positions)],
            "tokens": tokens,
            "top_logprobs": [*none, *map(self._best, positions)] if self._num_best else None,
        }

    def _best(self, candidates: Candidates) -> dict[str, float]:
        # The better of two tokens that show the same text comes first.
        best: dict[str, float] = {}
        for _, logprob, _, text in sorted(candidates, key=lambda candidate: candidate[2]):
            best.setdefault(text, _finite(logprob))
        return best


class ChatLogprobs:
    """Of chat: a list of objects."""

    def __init__(self, num_best: int) -> None:
        self._num_best = num_best

    def piece(self, positions: list[Candidates]) -> dict[str, Any]:
        """The next positions."""
        return {"content": [self._entry(candidates) for candidates in positions], "refusal": None}

    def _entry(self, candidates: Candidates) -> dict[str, Any]:
        best = sorted((one for one in candidates if one[2] <= self._num_best), key=lambda candidate: candidate[2])
        return {**_token(candidates[0]), "top_logprobs": [_token(one) for one in best]}


def _token(candidate: tuple[int, float, int, str]) -> dict[str, Any]:
    _, logprob, _, text = candidate
    # A token that is a part of a character shows as U+FFFD, whose bytes are not its own.
    own = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
    return {"token": text, "logprob": _finite(logprob), "bytes": own}
