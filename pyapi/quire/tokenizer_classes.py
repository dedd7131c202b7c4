"""What tokenizer classes know that no file of a model folder says.

`tokenizer_class` of tokenizer_config.json names the class. Its code is never run; the few facts that it adds to the
files stand here: special tokens that it numbers itself, what it puts in front of a text, and how it splits a text into
words. cpp/text/tokenizer_class.cc holds the same special tokens for decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

END_OF_TEXT = "<|endoftext|>"

# How tiktoken's cl100k_base splits a text before merging, and Qwen's way, for which every digit is a word.
CL100K_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN_SPLIT = CL100K_SPLIT.replace("{1,3}", "")


@dataclass(frozen=True)
class TiktokenClass:
    """A class that reads a tiktoken vocabulary."""

    split: str = CL100K_SPLIT
    normalizes: bool = False
    """Brings texts to Unicode's normal form C."""
    appended: tuple[str | None, ...] = ()
    """Special tokens, numbered behind the vocabulary; None leaves a number out."""
    prefix: tuple[str, ...] = ()
    """Tokens in front of every text."""
    default_file: str = "a .tiktoken file"


_FILL_IN_THE_MIDDLE = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_STARCODER = (
    "<gh_stars>", "<filename>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>",
    "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>", "<commit_before>", "<commit_msg>",
    "<commit_after>", "<reponame>",
)  # fmt: skip

TIKTOKEN_CLASSES: Mapping[str, TiktokenClass] = {
    # Qwen 1. Source: Qwen/Qwen-7B:tokenization_qwen.py.
    "QWenTokenizer": TiktokenClass(
        split=QWEN_SPLIT,
        normalizes=True,
        appended=(END_OF_TEXT, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205))),
        default_file="qwen.tiktoken",
    ),
    # StableLM 2. Source: stabilityai/stablelm-2-1_6b:tokenization_arcade100k.py.
    "Arcade100kTokenizer": TiktokenClass(
        split=QWEN_SPLIT,
        normalizes=True,
        appended=(
            None, END_OF_TEXT, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", *_STARCODER,
            "<|endofprompt|>", "<|im_start|>", "<|im_end|>", "<|pause|>", *(f"<|reg{number}|>" for number in range(8)),
            "<|extra0|>",
        ),
        default_file="arcade100k.tiktoken",
    ),  # fmt: skip
    # DBRX, over OpenAI's vocabulary. Source: databricks/dbrx-base:tiktoken.py.
    "TiktokenTokenizerWrapper": TiktokenClass(
        appended=(
            None, END_OF_TEXT, *_FILL_IN_THE_MIDDLE, *(None,) * 15, "<|endofprompt|>", "<|pad|>", "<|im_start|>",
            "<|im_end|>",
        ),
        default_file="cl100k_base.tiktoken",
    ),  # fmt: skip
    # GLM-4. Source: THUDM/glm-4-9b:tokenization_chatglm.py.
    "ChatGLM4Tokenizer": TiktokenClass(
        appended=(
            END_OF_TEXT, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
            "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
        ),
        prefix=("[gMASK]", "<sop>"),
        default_file="tokenizer.model",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ByteLevelClass:
    """A class that reads vocab.json and merges.txt."""

    split: str | None = None
    """None: GPT-2's, which the library has built in."""
    normalizes: bool = False
    special_tokens: Mapping[str, str] = field(
        default_factory=lambda: dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    )
    """Where no file names them and the vocabulary has them."""


_GPT2 = ByteLevelClass()

# Source: huggingface/transformers, the classes of these names.
BYTE_LEVEL_CLASSES: Mapping[str, ByteLevelClass] = {
    "": _GPT2,
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "PreTrainedTokenizer": _GPT2,
    "Qwen2Tokenizer": ByteLevelClass(
        split=QWEN_SPLIT,
        normalizes=True,
        special_tokens=dict.fromkeys(("eos_token", "unk_token", "pad_token"), END_OF_TEXT),
    ),
    "TiktokenTokenizerWrapper": ByteLevelClass(split=CL100K_SPLIT),
}

_LLAMA_SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class SentencePieceClass:
    """A class that reads a SentencePiece model. The defaults are LlamaTokenizer's."""

    special_tokens: Mapping[str, str] = field(default_factory=lambda: _LLAMA_SPECIAL_TOKENS)
    """Where no file names them and the model has them."""
    adds_bos: bool = True
    """Where add_bos_token is not given."""
    appended: tuple[str, ...] = ()
    """Special tokens, numbered behind the model's pieces."""
    prefix: tuple[str, ...] = ()
    """Tokens in front of every text."""
    only_behind: Mapping[str, str] = field(default_factory=dict)
    """Appended tokens that look like words: in a text they count behind this token only."""
    role_ids: tuple[int, ...] = ()
    """Pieces that begin a message, whose text is encoded by itself, if the model calls them reserved."""


SENTENCEPIECE_CLASSES: Mapping[str, SentencePieceClass] = {
    # Source: baichuan-inc/Baichuan2-7B-Base:tokenizer_config.json.
    "BaichuanTokenizer": SentencePieceClass(adds_bos=False, role_ids=(195, 196)),
    # ChatGLM 2 has the same without the last four. Source: THUDM/chatglm3-6b:tokenization_chatglm.py.
    "ChatGLMTokenizer": SentencePieceClass(
        special_tokens={**_LLAMA_SPECIAL_TOKENS, "pad_token": "<unk>"},
        adds_bos=False,
        appended=(
            "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
        ),
        prefix=("[gMASK]", "sop"),
        only_behind={"sop": "[gMASK]", "eop": "[gMASK]"},
    ),
    "GemmaTokenizer": SentencePieceClass(
        special_tokens={"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    ),
}  # fmt: skip
