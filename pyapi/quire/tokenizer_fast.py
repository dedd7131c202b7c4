"""Encoding and decoding with the `tokenizers` library, and tokenizer.json, its own format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quire.tokenizer_config import TokenizerConfig

# Classes of transformers that build the post-processor from these two fields, whatever tokenizer.json says.
_BUILDS_POST_PROCESSOR = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"}

# The library holds Python's lock while it encodes one text, and lets go of it for a batch, which costs a little more.
_SHORT_TEXT = 1024


class FastTokenizer:
    """Ids and texts of one `tokenizers.Tokenizer`, wherever it was read from."""

    def __init__(self, tokenizer: Any, num_model_tokens: int | None = None, num_ids: int | None = None) -> None:
        """The last two are sizes without and with added tokens, for vocabularies whose ids have gaps."""
        self._tokenizer = tokenizer
        self._num_model_tokens = num_model_tokens
        self._num_ids = num_ids

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        try:
            if len(texts) == 1 and len(texts[0]) <= _SHORT_TEXT:
                return [list(self._tokenizer.encode(texts[0], add_special_tokens=add_special_tokens).ids)]
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        except BaseException as error:
            raise refused(error, "The tokenizer cannot encode the text") from None
        return [list(encoding.ids) for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        # The library takes 32-bit ids only; ids without a token add nothing, so others may as well be left out.
        known = [token_id for token_id in ids if 0 <= token_id < 2**32]
        try:
            return str(self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens))
        except BaseException as error:
            raise refused(error, "The tokenizer cannot decode the ids") from None

    def id_of(self, token: str) -> int | None:
        token_id = self._tokenizer.token_to_id(token)
        return None if token_id is None else int(token_id)

    def token_of(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    def size(self, with_added_tokens: bool) -> int:
        known = self._num_ids if with_added_tokens else self._num_model_tokens
        return int(self._tokenizer.get_vocab_size(with_added_tokens=with_added_tokens)) if known is None else known


def read_tokenizer_json(path: Path, config: TokenizerConfig) -> FastTokenizer:
    """Raises: ValueError naming the file."""
    import tokenizers

    try:
        # From bytes, as the library reads paths in UTF-8 only.
        tokenizer: Any = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except BaseException as error:
        raise refused(error, f"[{path}] not a tokenizer") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    follow_bos_and_eos(tokenizer, config)
    return FastTokenizer(tokenizer)


def follow_bos_and_eos(tokenizer: Any, config: TokenizerConfig) -> None:
    """Let tokenizer_config.json decide about <s> and </s> where transformers does."""
    if config.tokenizer_class not in _BUILDS_POST_PROCESSOR:
        return
    if all(config.fields.get(name) is None for name in ("add_bos_token", "add_eos_token")):
        return
    first = [config.special_tokens.get("bos_token")] if config.flag("add_bos_token", True) else []
    last = [config.special_tokens.get("eos_token")] if config.flag("add_eos_token", False) else []
    surround(tokenizer, first, last)


def surround(tokenizer: Any, first: Sequence[str | None], last: Sequence[str | None] = ()) -> None:
    """Have tokens put in front of every text and behind it; those that the vocabulary does not have are left out."""
    from tokenizers.processors import TemplateProcessing

    ids = {token: tokenizer.token_to_id(token) for token in (*first, *last) if token is not None}
    known = {token: token_id for token, token_id in ids.items() if token_id is not None}
    front, back = ([token for token in tokens if token in known] for tokens in (first, last))
    tokenizer.post_processor = TemplateProcessing(single=[*front, "$A", *back], special_tokens=list(known.items()))


def refused(error: BaseException, problem: str) -> BaseException:
    """The error to raise instead of one from the library, whose panics are no Exception."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return ValueError(f"{problem}: {error}")
    return error
