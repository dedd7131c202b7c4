"""What the JSON files beside a tokenizer say about it: special tokens, added tokens, chat templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class AddedToken:
    """A token that was added to a vocabulary after its training; a text is split at it before anything else."""

    content: str
    id: int | None = None
    special: bool = False
    lstrip: bool = False
    """Takes the white space in front of it away."""
    rstrip: bool = False
    single_word: bool = False


@dataclass
class TokenizerConfig:
    """tokenizer_config.json with the older files that say the same."""

    folder: Path
    fields: dict[str, Any] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)
    """bos_token, eos_token and so on: those that the tokenizer has."""
    additional_special_tokens: list[str] = field(default_factory=list)
    special_names: set[str] = field(default_factory=set)
    """Every token that a field of either file names."""
    added_tokens: list[AddedToken] = field(default_factory=list)
    chat_templates: dict[str, str] = field(default_factory=dict)
    """By name; the usual one is called "default"."""

    @classmethod
    def from_folder(cls, folder: Path) -> TokenizerConfig:
        """Read what there is; all of the files are optional.

        Raises: ValueError naming file and field.
        """
        config = cls(folder, read_object(folder / "tokenizer_config.json"))
        config._read_special_tokens()
        config._read_added_tokens()
        config.chat_templates = _read_chat_templates(folder, config.fields)
        return config

    def flag(self, name: str, default: bool) -> bool:
        """A bool of tokenizer_config.json; null counts as missing."""
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"[{self.folder / 'tokenizer_config.json'}] {name} must be true or false, got {value!r}.")
        return value

    @property
    def special_map(self) -> Path:
        return self.folder / "special_tokens_map.json"

    @property
    def tokenizer_class(self) -> str:
        """The transformers class without its ending Fast; empty if the file does not say."""
        name = self.fields.get("tokenizer_class")
        if name is not None and not isinstance(name, str):
            path = self.folder / "tokenizer_config.json"
            raise ValueError(f"[{path}] tokenizer_class must be a string, got {name!r}.")
        return (name or "").removesuffix("Fast")

    def _read_special_tokens(self) -> None:
        """tokenizer_config.json counts before special_tokens_map.json."""
        older = read_object(self.special_map)
        self.special_names = {*self._named_special(self.fields), *self._named_special(older)}
        for name in SPECIAL_NAMES:
            token = _content(self.fields.get(name)) or _content(older.get(name))
            if token:
                self.special_tokens[name] = token
        additional = self.fields.get("additional_special_tokens") or older.get("additional_special_tokens")
        if isinstance(additional, list):
            self.additional_special_tokens = [token for token in map(_content, additional) if token]

    def _read_added_tokens(self) -> None:
        decoder = self.fields.get("added_tokens_decoder")
        if decoder is None:
            path = self.folder / "added_tokens.json"
            for content, token_id in read_object(path).items():
                self._add(path, AddedToken(content, token_id, special=content in self.special_names))
            return
        path = self.folder / "tokenizer_config.json"
        if not isinstance(decoder, dict):
            raise ValueError(f"[{path}] added_tokens_decoder must be an object, got {type(decoder).__name__}.")
        for key, token in decoder.items():
            if not key.isdecimal() or not isinstance(token, dict) or not isinstance(token.get("content"), str):
                raise ValueError(f"[{path}] added_tokens_decoder[{key!r}] must be a token under its id.")
            flags = {name: bool(token.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")}
            self._add(path, AddedToken(token["content"], int(key), **flags))

    @staticmethod
    def _named_special(fields: dict[str, Any]) -> Iterator[str]:
        """Every token that a field of either file names special."""
        for name, value in fields.items():
            if name.endswith("_token") or name == "additional_special_tokens":
                yield from (token for token in map(_content, value if isinstance(value, list) else [value]) if token)

    def _add(self, path: Path, token: AddedToken) -> None:
        if isinstance(token.id, bool) or not isinstance(token.id, int) or token.id < 0:
            raise ValueError(f"[{path}] the added token {token.content!r} must have an id, got {token.id!r}.")
        if token.content:
            self.added_tokens.append(token)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no such file. Raises: ValueError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[{path}] not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"[{path}] must hold an object, got {type(content).__name__}.")
    return content


def _content(token: Any) -> str | None:
    """The text of a token, which is written as a string or as an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _read_chat_templates(folder: Path, fields: dict[str, Any]) -> dict[str, str]:
    """Files of their own count before the field of tokenizer_config.json, as in transformers."""
    templates = dict(_named_templates(fields.get("chat_template"), folder / "tokenizer_config.json"))
    json_file = folder / "chat_template.json"
    templates.update(_named_templates(read_object(json_file).get("chat_template"), json_file))
    for path in (folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))):
        if path.is_file():
            name = "default" if path.parent == folder else path.stem
            try:
                templates[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"[{path}] not valid UTF-8: {error}") from None
    return templates


def _named_templates(value: Any, path: Path) -> Iterator[tuple[str, str]]:
    """One template, or a list of {"name": ..., "template": ...}."""
    if value is None:
        return
    if isinstance(value, str):
        yield "default", value
        return
    for entry in value if isinstance(value, list) else [value]:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise ValueError(f"[{path}] chat_template must be a string or a list of objects with name and template.")
        yield name, template
