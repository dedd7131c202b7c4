"""Byte-level BPE out of a vocabulary and its merges: GPT-2's pair of files, vocab.json and merges.txt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.tokenizer_classes import BYTE_LEVEL_CLASSES, END_OF_TEXT
from quire.tokenizer_config import AddedToken, TokenizerConfig, read_object
from quire.tokenizer_fast import FastTokenizer, refused, surround

MAX_ID = (1 << 22) - 1
"""The engine's bound (cpp/text/token_table.h)."""

Merges = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TextRules:
    """What happens to a text before its words are merged."""

    split: str | None
    """A regular expression whose matches are the words; None: GPT-2's."""
    normalizes: bool
    add_prefix_space: bool = False


def build(
    path: Path, vocab: Mapping[str, int], merges: Merges, added: Iterable[AddedToken], rules: TextRules, **model: Any
) -> tuple[Any, int]:
    """A `tokenizers.Tokenizer`, and the number of its ids. Raises: ValueError naming the file."""
    from tokenizers import AddedToken as LibraryToken
    from tokenizers import Tokenizer, decoders, models, normalizers

    # The library numbers added tokens without gaps. Those that the model itself has keep their ids, so all are put in.
    all_ids = dict(vocab)
    for token in added:
        if token.id is None or all_ids.setdefault(token.content, token.id) != token.id:
            raise ValueError(
                f"[{path}] the added token {token.content!r} must have the id {vocab.get(token.content)}, "
                f"which the vocabulary gives it, got {token.id}."
            )
    _require_distinct(path, all_ids)
    try:
        tokenizer: Any = Tokenizer(models.BPE(all_ids, list(merges), **model))
    except BaseException as error:
        raise refused(error, f"[{path}] not a byte-level vocabulary") from None
    if rules.normalizes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(rules)
    tokenizer.decoder = decoders.ByteLevel()
    for token in added:
        flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
        library_token = LibraryToken(token.content, normalized=False, **flags)
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([library_token])
    return tokenizer, 1 + max(all_ids.values(), default=-1)


def _pre_tokenizer(rules: TextRules) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if rules.split is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=rules.add_prefix_space)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=rules.add_prefix_space, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(rules.split), behavior="isolated"), bytes_only])


def _require_distinct(path: Path, ids: Mapping[str, int]) -> None:
    tokens: dict[int, str] = {}
    for token, token_id in ids.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id <= MAX_ID:
            raise ValueError(f"[{path}] the token {token!r} must have an id in [0, {MAX_ID}], got {token_id!r}.")
        if tokens.setdefault(token_id, token) != token:
            raise ValueError(f"[{path}] the tokens {tokens[token_id]!r} and {token!r} have the same id {token_id}.")


def read_vocab_json(folder: Path, config: TokenizerConfig) -> FastTokenizer:
    """Raises: ValueError naming file and field."""
    kind = BYTE_LEVEL_CLASSES.get(config.tokenizer_class)
    if kind is None:
        known = ", ".join(sorted(filter(None, BYTE_LEVEL_CLASSES)))
        raise ValueError(
            f"[{folder / 'tokenizer_config.json'}] tokenizer_class={config.tokenizer_class!r} is not known for "
            f"vocab.json and merges.txt (known: {known}); save tokenizer.json with transformers' "
            "AutoTokenizer(...).save_pretrained()."
        )
    path = folder / "vocab.json"
    vocab = read_object(path)
    added = list(config.added_tokens)
    known_tokens = {*vocab, *(token.content for token in added)}
    for name, token in kind.special_tokens.items():
        if token in known_tokens:
            config.special_tokens.setdefault(name, token)
    listed = {token.content for token in added}
    for content in sorted({*config.special_names, END_OF_TEXT} - listed):
        if content in vocab:
            added.append(AddedToken(content, vocab[content], special=True))
    rules = TextRules(kind.split, kind.normalizes, config.flag("add_prefix_space", False))
    tokenizer, num_ids = build(path, vocab, _read_merges(folder / "merges.txt", vocab), added, rules)
    if config.flag("add_bos_token", False):
        surround(tokenizer, [config.special_tokens.get("bos_token")])
    return FastTokenizer(tokenizer, len(vocab), num_ids)


def _read_merges(path: Path, vocab: Mapping[str, int]) -> Merges:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"[{path}] not valid UTF-8: {error}") from None
    merges = []
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or any(token not in vocab for token in (left, right, left + right)):
            raise ValueError(
                f"[{path}] line {number} must be two tokens of vocab.json that make a third one, got {line!r}."
            )
        merges.append((left, right))
    return merges
