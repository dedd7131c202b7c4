"""Text to token ids and back, with the libraries `tokenizers` and `sentencepiece`; no code of a model folder is run.

The text of generated outputs does not come from here: the engine makes it itself, token by token.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quire.checks import as_text
from quire.tokenizer_config import TokenizerConfig, read_object

if TYPE_CHECKING:
    from quire.chat_defaults import ChatDefault

logger = logging.getLogger("quire")

MAX_CHARACTERS = 1 << 24
"""The longest text that is encoded: some four million tokens."""


def load_tokenizer(folder: str | os.PathLike[str], mode: str = "auto") -> Tokenizer:
    """The tokenizer of a model folder; see Tokenizer.from_folder."""
    return Tokenizer.from_folder(folder, mode)


class BatchEncoding(dict[str, Any]):
    """What calling a tokenizer gives: input_ids and attention_mask, as items and as attributes."""

    @property
    def input_ids(self) -> Any:
        return self["input_ids"]

    @property
    def attention_mask(self) -> Any:
        return self["attention_mask"]


class _Library(Protocol):
    """What FastTokenizer and SentencePieceTokenizer have in common."""

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str: ...
    def id_of(self, token: str) -> int | None: ...
    def token_of(self, token_id: int) -> str | None: ...
    def vocabulary(self) -> dict[str, int]: ...
    def size(self, with_added_tokens: bool) -> int: ...


class Tokenizer:
    """A model's tokenizer with the methods that users of transformers know."""

    def __init__(self, library: _Library, config: TokenizerConfig) -> None:
        self._library = library
        self._config = config
        self._noted_default = False
        self.name_or_path = str(config.folder)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], mode: str = "auto") -> Tokenizer:
        """Read a model folder's tokenizer.

        The first of these that is there counts: tokenizer.json, a .tiktoken file, tokenizer.model (SentencePiece's or
        tiktoken's format), vocab.json with merges.txt.

        Args:
            mode: "slow" prefers tokenizer.model.

        Raises:
            FileNotFoundError: there is no such folder, or none of the files is in it.
            ValueError: a file is damaged, or its tokenizer class is not known; the message names it.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"tokenizer={str(path)!r} is not a folder.")
        config = TokenizerConfig.from_folder(folder)
        return cls(_read_vocabulary(folder, mode, config), config)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name_or_path!r}, {len(self)} tokens)"

    def __len__(self) -> int:
        """Number of tokens, added ones included."""
        return self._library.size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Number of tokens without added ones."""
        return self._library.size(with_added_tokens=False)

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> BatchEncoding:
        """Encode one text or several: an object with input_ids and attention_mask."""
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens)
            return BatchEncoding(input_ids=ids, attention_mask=[1] * len(ids))
        batch = self.encode_batch(text, add_special_tokens)
        return BatchEncoding(input_ids=batch, attention_mask=[[1] * len(ids) for ids in batch])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text. Special tokens that are written in the text count as such.

        Raises: ValueError for what is no text: lone surrogates, null characters, more than 2**24 characters.
        """
        return self._library.encode([_checked_text("text", text)], add_special_tokens)[0]

    def encode_batch(self, texts: Iterable[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Ids of several texts; `tokenizers` uses all cores for it. Raises: as encode()."""
        checked = [_checked_text(f"texts[{index}]", text) for index, text in enumerate(texts)]
        return self._library.encode(checked, add_special_tokens) if checked else []

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of an id or of several; ids without a token add nothing."""
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return self._library.decode([int(token_id) for token_id in ids], skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """Texts of several lists of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[str]:
        """Tokens of a text, as the vocabulary writes them."""
        return [self._library.token_of(token_id) or "" for token_id in self.encode(text, add_special_tokens)]

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> Any:
        """The token of an id, or those of several; None for an id without one."""
        if isinstance(ids, int):
            return self._library.token_of(ids)
        return [self._library.token_of(int(token_id)) for token_id in ids]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or those of several; unknown ones have unk_token_id."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        token_id = self._library.id_of(tokens)
        return self.unk_token_id if token_id is None else token_id

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added ones included."""
        return self._library.vocabulary()

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """bos_token, eos_token and so on, as chat templates see them."""
        additional = self._config.additional_special_tokens
        return {**self._config.special_tokens, **({"additional_special_tokens": additional} if additional else {})}

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens of special_tokens_map, each once."""
        named = [*self._config.special_tokens.values(), *self._config.additional_special_tokens]
        return list(dict.fromkeys(named))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        ids = map(self._library.id_of, self.all_special_tokens)
        return [token_id for token_id in ids if token_id is not None]

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text; None if there is none."""
        return self._config.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self._config.special_tokens.get("eos_token")

    @property
    def unk_token(self) -> str | None:
        """The token for text that the vocabulary does not have."""
        return self._config.special_tokens.get("unk_token")

    @property
    def pad_token(self) -> str | None:
        """The token that fills a batch up."""
        return self._config.special_tokens.get("pad_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id_or_none(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return self._id_or_none(self.eos_token)

    @property
    def unk_token_id(self) -> int | None:
        return self._id_or_none(self.unk_token)

    @property
    def pad_token_id(self) -> int | None:
        return self._id_or_none(self.pad_token)

    def _id_or_none(self, token: str | None) -> int | None:
        return None if token is None else self._library.id_of(token)

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The model's chat template in jinja2; a dict by name if it has several, None if it has none.

        Where the folder carries none, it is the one that the family's authors publish elsewhere, if they do.
        """
        templates = self._config.chat_templates
        if not templates and self._chat_default is not None:
            return self._chat_default.template
        return templates.get("default") if set(templates) <= {"default"} else dict(templates)

    @functools.cached_property
    def _chat_default(self) -> ChatDefault | None:
        from quire.chat_defaults import find_chat_default

        model = read_object(self._config.folder / "config.json")
        names = (self._config.folder.name, model.get("_name_or_path"), self._config.fields.get("name_or_path"))
        return find_chat_default(model, " ".join(map(str, names)), self._library)

    def _token_variables(self, default: ChatDefault) -> dict[str, str]:
        return {name: self._library.token_of(token_id) or "" for name, token_id in default.token_ids.items()}

    def chat_ends(self) -> tuple[list[int], list[str]]:
        """What ends an answer in the family's chat format, besides the model's end-of-text tokens: ids and texts.

        Texts that are no tokens count only where the format itself is the default one.
        """
        if self._chat_default is None:
            return [], []
        tokens = self._token_variables(self._chat_default)
        ends = [tokens.get(end, end) for end in self._chat_default.ends]
        ids = {end: self._library.id_of(end) for end in ends}
        texts = [end for end in ends if ids[end] is not None or not self._config.chat_templates]
        return [token_id for token_id in ids.values() if token_id is not None], texts

    def apply_chat_template(
        self,
        conversation: Sequence[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        **template_kwargs: Any,
    ) -> Any:
        """Write a conversation as the model's prompt.

        Args:
            conversation: messages, each with "role" and "content".
            chat_template: jinja2 text, or the name of one of the model's templates, instead of the usual one.
            add_generation_prompt: end with the words that begin an answer.
            tokenize: return ids; else text.
            template_kwargs: further variables of the template.

        Raises: ValueError if the model has no template, or the template fails or refuses the conversation.
        """
        from quire.chat import choose_template, render

        templates, tokens = self._config.chat_templates, {}
        if not templates and chat_template is None and self._chat_default is not None:
            templates, tokens = {"default": self._chat_default.template}, self._token_variables(self._chat_default)
            self._note_default(self._chat_default.name)
        template = choose_template(templates, chat_template, with_tools=tools is not None)
        variables = {
            **self.special_tokens_map,
            **tokens,
            **template_kwargs,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        text = render(template, conversation, variables)
        # The template writes the special tokens itself.
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def _note_default(self, name: str) -> None:
        if not self._noted_default:
            self._noted_default = True
            logger.info("%s has no chat template; its authors' published default is used: %s", self.name_or_path, name)


def _checked_text(name: str, text: Any) -> str:
    checked = as_text(name, text)
    if len(checked) > MAX_CHARACTERS:
        raise ValueError(f"{name} must have at most {MAX_CHARACTERS} characters, got {len(checked)}.")
    null = checked.find("\0")
    if null >= 0:
        raise ValueError(f"{name} must not have null characters, got one at position {null}.")
    return checked


def _read_vocabulary(folder: Path, mode: str, config: TokenizerConfig) -> _Library:
    json_file, model_file = folder / "tokenizer.json", folder / "tokenizer.model"
    if json_file.is_file() and not (mode == "slow" and model_file.is_file()):
        from quire.tokenizer_fast import read_tokenizer_json

        return read_tokenizer_json(json_file, config)
    from quire.tokenizer_tiktoken import is_tiktoken, read_tiktoken

    tiktoken_files = sorted(folder.glob("*.tiktoken"))
    if len(tiktoken_files) > 1:
        names = ", ".join(file.name for file in tiktoken_files)
        raise ValueError(f"[{folder}] has several tiktoken vocabularies: {names}; leave one.")
    if not tiktoken_files and model_file.is_file() and is_tiktoken(model_file):
        tiktoken_files = [model_file]
    if tiktoken_files:
        return read_tiktoken(tiktoken_files[0], config)
    if model_file.is_file():
        from quire.tokenizer_sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(model_file, config)
    if not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise FileNotFoundError(_missing(folder, config.tokenizer_class))
    from quire.tokenizer_byte_level import read_vocab_json

    return read_vocab_json(folder, config)


def _missing(folder: Path, tokenizer_class: str) -> str:
    from quire.tokenizer_classes import TIKTOKEN_CLASSES

    kind = TIKTOKEN_CLASSES.get(tokenizer_class)
    if kind is not None:
        return (
            f"{str(folder)!r} has no vocabulary: its tokenizer class {tokenizer_class} reads {kind.default_file}. "
            "Put that file or a tokenizer.json into the folder, or pass tokenizer= with a folder that has one."
        )
    return (
        f"{str(folder)!r} has no vocabulary: no tokenizer.json, tokenizer.model, .tiktoken file, or vocab.json with "
        "merges.txt. Pass tokenizer= with a folder that has one, or skip_tokenizer_init=True to work with token ids."
    )
