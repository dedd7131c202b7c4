"""tokenizer.model through the `sentencepiece` library, as the slow tokenizers of transformers use it.

Source: huggingface/transformers:src/transformers/models/llama/tokenization_llama.py and tokenization_utils.py of 4.40.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quire.tokenizer_classes import SENTENCEPIECE_CLASSES, SentencePieceClass
from quire.tokenizer_config import AddedToken, TokenizerConfig

SPACE = "▁"

# `normalizer_spec { add_dummy_prefix: false }` of ModelProto in protobuf's wire format: behind a model, it counts.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceTokenizer:
    """Ids and texts of one tokenizer.model with the tokens that were added to it."""

    def __init__(self, path: Path, config: TokenizerConfig) -> None:
        self._legacy = config.flag("legacy", True)
        self._processor = _processor(path)
        self._encoder = self._processor if self._legacy else _processor(path, _NO_DUMMY_PREFIX)
        self._num_pieces = int(self._processor.vocab_size())
        kind = SENTENCEPIECE_CLASSES.get(config.tokenizer_class, SentencePieceClass())
        for name, token in kind.special_tokens.items():
            if self._piece_id(token) is not None:
                config.special_tokens.setdefault(name, token)
        self._special = {*config.special_tokens.values(), *config.additional_special_tokens}
        listed = [*self._role_tokens(kind), *config.added_tokens, *self._appended_tokens(kind, config)]
        self._added = {token.content: token for token in self._added_tokens(listed)}
        self._by_id = {token.id: token for token in listed if not self._is_piece(token)}
        self._special_words = {token.id for token in listed if token.special and self._is_word(token)}
        self._splitter = _splitter(self._added, kind.only_behind)
        self._add_prefix_space = config.flag("add_prefix_space", True)
        prefix = [token_id for token_id in map(self.id_of, kind.prefix) if token_id is not None]
        self._bos = prefix + self._wanted_ids(config, "bos_token", default=kind.adds_bos)
        self._eos = self._wanted_ids(config, "eos_token", default=False)
        self._unknown = config.special_tokens.get("unk_token", "<unk>")
        self._num_unknown_pieces = len(self._encoder.encode(self._unknown))

    def _wanted_ids(self, config: TokenizerConfig, name: str, default: bool) -> list[int]:
        """The id to put in front of a text or behind it, if add_bos_token or add_eos_token says so."""
        token_id = self.id_of(config.special_tokens.get(name, ""))
        return [token_id] if token_id is not None and config.flag(f"add_{name}", default) else []

    def _appended_tokens(self, kind: SentencePieceClass, config: TokenizerConfig) -> Iterator[AddedToken]:
        """Those that the class numbers behind the pieces, unless the files list them."""
        ids = {token.id for token in config.added_tokens}
        contents = {token.content for token in config.added_tokens}
        for token_id, content in enumerate(kind.appended, start=self._num_pieces):
            if token_id not in ids and content not in contents:
                yield AddedToken(content, token_id, special=True)

    def _role_tokens(self, kind: SentencePieceClass) -> Iterator[AddedToken]:
        for token_id in kind.role_ids:
            piece = self._piece(token_id)
            if piece is not None and piece.startswith("<reserved_"):
                yield AddedToken(piece, token_id)

    def _added_tokens(self, listed: Sequence[AddedToken]) -> Iterator[AddedToken]:
        """Those that are listed, and the special tokens, which the model itself has."""
        yield from listed
        for content in sorted(self._special - {token.content for token in listed}):
            token_id = self._piece_id(content)
            if token_id is not None:
                yield AddedToken(content, token_id, special=True)

    def _piece_id(self, piece: str) -> int | None:
        """The model's id of a piece; the library gives every other text the id of <unk>."""
        token_id = int(self._processor.piece_to_id(piece))
        return token_id if self._processor.id_to_piece(token_id) == piece else None

    def _piece(self, token_id: int) -> str | None:
        return str(self._processor.id_to_piece(token_id)) if 0 <= token_id < self._num_pieces else None

    def _is_piece(self, token: AddedToken) -> bool:
        known = token.id is not None and token.id < self._num_pieces
        return known and self._processor.id_to_piece(token.id) == token.content

    def _is_word(self, token: AddedToken) -> bool:
        """Whether the token is a piece that is an ordinary one to the library."""
        kinds = (self._processor.is_unknown, self._processor.is_byte, self._processor.is_control)
        return self._is_piece(token) and not any(is_kind(token.id) for is_kind in kinds)

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        bos, eos = (self._bos, self._eos) if add_special_tokens else ([], [])
        return [[*bos, *self._encode_text(text), *eos] for text in texts]

    def _encode_text(self, text: str) -> list[int]:
        if not self._legacy and text:
            text = text.replace(SPACE, " ")
            text = SPACE + text if self._add_prefix_space else text
        ids: list[int] = []
        parts = self._split(text)
        for part in parts:
            token = self._added.get(part)
            ids += self._encode_part(part) if token is None or token.id is None else [token.id]
        # The space that was put in front is not wanted before a special token.
        lone_space = not self._legacy and parts[:1] == [SPACE] and len(parts) > 1 and parts[1] in self._special
        return ids[1:] if lone_space and len(ids) > 1 else ids

    def _encode_part(self, text: str) -> list[int]:
        if self._legacy or not text.startswith((SPACE, " ")):
            return list(self._encoder.encode(text))
        # Behind another token, so that the library keeps the space; that token's pieces are then cut off.
        return list(self._encoder.encode(self._unknown + text))[self._num_unknown_pieces :]

    def _split(self, text: str) -> list[str]:
        """The text's parts, added tokens among them, with the white space gone that these take away."""
        parts = [text] if self._splitter is None else self._splitter.split(text)
        for index, part in enumerate(parts):
            token = self._added.get(part)
            if token is None:
                continue
            before, after = index - 1, index + 1
            if token.rstrip and after < len(parts):
                parts[after] = parts[after].lstrip()
            if token.lstrip and before >= 0:
                parts[before] = parts[before].rstrip()
            if token.single_word and before >= 0 and parts[before] and parts[before][-1] != " ":
                parts[before] += part
                parts[index] = ""
            elif token.single_word and after < len(parts) and parts[after] and parts[after][0] != " ":
                parts[after] = part + parts[after]
                parts[index] = ""
        return [part for part in parts if part]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        text = ""
        pieces: list[str] = []
        for token_id in ids:
            token = self._by_id.get(token_id)
            if token is None and not 0 <= token_id < self._num_pieces:
                continue
            literal = token.content if token is not None else self._shown_name(token_id)
            if literal is None:
                piece = str(self._processor.id_to_piece(token_id))
                if not (skip_special_tokens and token_id in self._special_words):
                    pieces.append(piece)
            elif not skip_special_tokens or (token is not None and not token.special):
                text = self._continued(text, pieces) + literal
                pieces = []
            elif token is None:
                pieces.append(literal)  # the library shows nothing for a control piece
        return self._continued(text, pieces)

    def _shown_name(self, token_id: int) -> str | None:
        """The name of a control piece, which is its text if special tokens are shown."""
        return str(self._processor.id_to_piece(token_id)) if self._processor.is_control(token_id) else None

    def _continued(self, text: str, pieces: list[str]) -> str:
        """The text with pieces behind it, decoded by the library."""
        if not pieces:
            return text
        # A piece that the library does not know stands for itself: behind it no space is dropped.
        anchor = ["\ue000anchor"] if text else []
        return text + str(self._processor.decode([*anchor, *pieces])).removeprefix("".join(anchor))

    def id_of(self, token: str) -> int | None:
        added = self._added.get(token)
        return added.id if added is not None else self._piece_id(token)

    def token_of(self, token_id: int) -> str | None:
        token = self._by_id.get(token_id)
        if token is not None:
            return token.content
        return self._piece(token_id)

    def vocabulary(self) -> dict[str, int]:
        pieces = {str(self._processor.id_to_piece(token_id)): token_id for token_id in range(self._num_pieces)}
        return pieces | {token.content: token.id for token in self._by_id.values() if token.id is not None}

    def size(self, with_added_tokens: bool) -> int:
        behind = sum(token_id is not None and token_id >= self._num_pieces for token_id in self._by_id)
        return self._num_pieces + (behind if with_added_tokens else 0)


def _processor(path: Path, settings: bytes = b"") -> Any:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(path.read_bytes() + settings)
    except Exception as error:
        raise ValueError(f"[{path}] not a SentencePiece model: {error}") from None
    return processor


def _splitter(contents: Iterable[str], only_behind: Mapping[str, str]) -> re.Pattern[str] | None:
    """Finds added tokens in a text, at each place the longest."""
    longest_first = sorted(contents, key=len, reverse=True)
    if not longest_first:
        return None
    conditions = {content: f"(?<={re.escape(before)})" for content, before in only_behind.items()}
    return re.compile("(" + "|".join(conditions.get(text, "") + re.escape(text) for text in longest_first) + ")")
