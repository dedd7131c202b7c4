"""tiktoken's vocabularies, lines of a token in base64 and its rank, through the `tokenizers` library."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from quire.tokenizer_byte_level import MAX_ID, TextRules, build
from quire.tokenizer_classes import END_OF_TEXT, TIKTOKEN_CLASSES, TiktokenClass
from quire.tokenizer_config import AddedToken, TokenizerConfig
from quire.tokenizer_fast import FastTokenizer, surround

MAX_TOKEN_BYTES = 1024
"""Pairs are looked for at every place inside a token."""

_FIRST_LINE = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\r?(\n|$)")


def is_tiktoken(path: Path) -> bool:
    """Whether a file looks like such a vocabulary; GLM-4 has one under the name tokenizer.model."""
    with path.open("rb") as file:
        return _FIRST_LINE.match(file.read(1 << 12)) is not None


def read_tiktoken(path: Path, config: TokenizerConfig) -> FastTokenizer:
    """Raises: ValueError naming file and line, or the class if it is not known."""
    kind = _class(config)
    ranks = _read_ranks(path)
    added = list(_added_tokens(kind, config, first=1 + max(ranks.values())))
    if any(token.content == END_OF_TEXT for token in added):
        config.special_tokens.setdefault("eos_token", END_OF_TEXT)
    stand_ins = _stand_ins()
    written = {token: "".join(map(stand_ins.__getitem__, token)) for token in ranks}
    vocab = {written[token]: rank for token, rank in ranks.items()}
    merges = [(written[left], written[right]) for left, right in _merges(ranks)]
    # tiktoken takes a word that is a token as it is, whether or not merges lead to it.
    rules = TextRules(kind.split, kind.normalizes)
    tokenizer, num_ids = build(path, vocab, merges, added, rules, ignore_merges=True)
    if kind.prefix:
        surround(tokenizer, kind.prefix)
    return FastTokenizer(tokenizer, len(vocab), num_ids)


def _class(config: TokenizerConfig) -> TiktokenClass:
    name = config.tokenizer_class
    # Early folders of GLM-4 name the class of its predecessors.
    kind = TIKTOKEN_CLASSES.get("ChatGLM4Tokenizer" if name == "ChatGLMTokenizer" else name)
    if kind is None:
        raise ValueError(
            f"[{config.folder / 'tokenizer_config.json'}] tokenizer_class={name!r} is not known for a tiktoken "
            f"vocabulary (known: {', '.join(sorted(TIKTOKEN_CLASSES))}); use a folder with tokenizer.json."
        )
    return kind


def _added_tokens(kind: TiktokenClass, config: TokenizerConfig, first: int) -> Iterator[AddedToken]:
    """Those that the files list, and those that the class numbers itself."""
    yield from config.added_tokens
    ids = {token.id for token in config.added_tokens}
    contents = {token.content for token in config.added_tokens}
    for token_id, content in enumerate(kind.appended, start=first):
        if content is not None and content not in contents and token_id not in ids:
            yield AddedToken(content, token_id, special=True)


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        encoded, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            token = b""
        if not token or not rank.isdigit() or len(rank) > len(str(MAX_ID)):
            got = line[:80].decode(errors="replace")
            raise ValueError(f"[{path}] line {number} must be a token in base64 and its rank, got {got!r}.")
        if len(token) > MAX_TOKEN_BYTES:
            raise ValueError(f"[{path}] line {number} must be a token of at most {MAX_TOKEN_BYTES} bytes.")
        if ranks.setdefault(token, int(rank)) != int(rank):
            raise ValueError(f"[{path}] line {number} gives a token a second rank: {line[:80].decode()!r}.")
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise ValueError(f"[{path}] has no token for the byte 0x{missing:02X}; the file is not whole.")
    return ranks


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The pairs that make each token, in order of its rank.

    tiktoken joins the neighbours whose whole has the lowest rank, whichever two they are: hence all pairs of a token,
    where training knows one. Their order among themselves was never seen to matter (tests/python/test_tiktoken.py).
    """
    for token in sorted(ranks, key=ranks.__getitem__):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                yield left, right


def _stand_ins() -> list[str]:
    """GPT-2's printable character for every byte, in which the library writes byte-level tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
