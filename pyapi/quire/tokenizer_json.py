"""tokenizer.json through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from quire.tokenizer_config import TokenizerConfig

T = TypeVar("T")

# Classes of transformers that build the post-processor from these two fields, whatever tokenizer.json says.
_BUILDS_POST_PROCESSOR = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"}


class JsonTokenizer:
    """Ids and texts of one tokenizer.json."""

    def __init__(self, path: Path, config: TokenizerConfig) -> None:
        import tokenizers

        try:
            # From bytes, as the library reads paths in UTF-8 only.
            self._tokenizer: Any = tokenizers.Tokenizer.from_buffer(path.read_bytes())
        except BaseException as error:
            raise _refused(error, f"[{path}] not a tokenizer") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._follow(config)

    def _follow(self, config: TokenizerConfig) -> None:
        """Let tokenizer_config.json decide about <s> and </s> where transformers does."""
        if config.tokenizer_class not in _BUILDS_POST_PROCESSOR:
            return
        if all(config.fields.get(name) is None for name in ("add_bos_token", "add_eos_token")):
            return
        from tokenizers.processors import TemplateProcessing

        names = [
            config.special_tokens.get("bos_token") if config.flag("add_bos_token", True) else None,
            config.special_tokens.get("eos_token") if config.flag("add_eos_token", False) else None,
        ]
        ids = [None if name is None else self.id_of(name) for name in names]
        first, last = ([] if token_id is None else [name] for name, token_id in zip(names, ids, strict=True))
        self._tokenizer.post_processor = TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, *(f"{name}:1" for name in first), "$B:1", *(f"{name}:1" for name in last)],
            special_tokens=[
                (name, token_id) for name, token_id in zip(names, ids, strict=True) if token_id is not None
            ],
        )

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        try:
            if len(texts) == 1:
                return [list(self._tokenizer.encode(texts[0], add_special_tokens=add_special_tokens).ids)]
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        except BaseException as error:
            raise _refused(error, "The tokenizer cannot encode the text") from None
        return [list(encoding.ids) for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        # The library takes 32-bit ids only; ids without a token add nothing, so others may as well be left out.
        known = [token_id for token_id in ids if 0 <= token_id < 2**32]
        try:
            return str(self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens))
        except BaseException as error:
            raise _refused(error, "The tokenizer cannot decode the ids") from None

    def id_of(self, token: str) -> int | None:
        token_id = self._tokenizer.token_to_id(token)
        return None if token_id is None else int(token_id)

    def token_of(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    def size(self, with_added_tokens: bool) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=with_added_tokens))


def _refused(error: BaseException, problem: str) -> BaseException:
    """The error to raise instead of one from the library, whose panics are no Exception."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return ValueError(f"{problem}: {error}")
    return error
