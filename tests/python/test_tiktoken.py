"""tiktoken vocabularies, held against the tiktoken library itself."""

import base64
import json
import random
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quire._core import Vocabulary
from quire.tokenizer import Tokenizer
from quire.tokenizer_classes import CL100K_SPLIT, QWEN_SPLIT, TIKTOKEN_CLASSES
from quire.tokenizer_tiktoken import MAX_TOKEN_BYTES

tiktoken = pytest.importorskip("tiktoken")

FIXTURE = Path(__file__).resolve().parent.parent / "data" / "text" / "tiktoken" / "qwen.tiktoken"
BYTES = {bytes([byte]): byte for byte in range(256)}
TEXTS = [
    "The quick brown fox's 1234567 jumps;  it'LL do!\n\n\n  And\tthen\r\nÇa va? 我能吞下玻璃 ",
    "1०२३ 🙂👩‍👩‍👧 \u00a0\u2003x ",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|endoftext|><|extra_7|><|no_such|>",
    "cafe\u0301 ﬁ Å (decomposed and compatibility forms)",
    "    def f(x):\n        return x**2  # done\n",
    "",
    " ",
]


def real_ranks() -> dict[bytes, int]:
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, FIXTURE.read_bytes().splitlines())}


def random_ranks(generator: random.Random, alphabet: str, count: int) -> dict[bytes, int]:
    """Tokens out of few letters, so that many pairs make the same one; half of them can only be whole words."""
    tokens = {"".join(generator.choices(alphabet, k=generator.randrange(2, 8))).encode() for _ in range(count)}
    ordered = sorted(tokens)
    generator.shuffle(ordered)
    return BYTES | {token: 256 + index for index, token in enumerate(ordered)}


def write_folder(folder: Path, ranks: Mapping[bytes, int], tokenizer_class: str, name: str, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items()]
    (folder / name).write_bytes(b"".join(lines))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class, **fields}))
    return folder


def special_tokens(tokenizer_class: str, first: int) -> dict[str, int]:
    names = enumerate(TIKTOKEN_CLASSES[tokenizer_class].appended, start=first)
    return {name: token_id for token_id, name in names if name is not None}


def oracle(ranks: Mapping[bytes, int], tokenizer_class: str, split: str) -> Any:
    special = special_tokens(tokenizer_class, 1 + max(ranks.values()))
    return tiktoken.Encoding("oracle", pat_str=split, mergeable_ranks=dict(ranks), special_tokens=special)


@pytest.mark.parametrize(
    ("tokenizer_class", "name", "split", "normalizes"),
    [
        ("QWenTokenizer", "qwen.tiktoken", QWEN_SPLIT, True),
        ("Arcade100kTokenizer", "arcade100k.tiktoken", QWEN_SPLIT, True),
        ("TiktokenTokenizerWrapper", "cl100k_base.tiktoken", CL100K_SPLIT, False),
        ("ChatGLM4Tokenizer", "tokenizer.model", CL100K_SPLIT, False),
    ],
)
def test_texts_have_the_ids_that_tiktoken_gives_them(
    tmp_path: Path, tokenizer_class: str, name: str, split: str, normalizes: bool
) -> None:
    ranks = real_ranks()
    folder = write_folder(tmp_path, ranks, tokenizer_class, name)
    tokenizer, vocabulary = Tokenizer.from_folder(folder), Vocabulary.from_folder(str(folder))
    expected = oracle(ranks, tokenizer_class, split)
    assert len(tokenizer) == vocabulary.size == expected.n_vocab
    assert tokenizer.vocab_size == len(ranks)
    for text in TEXTS:
        normal = unicodedata.normalize("NFC", text) if normalizes else text
        ids = expected.encode(normal, allowed_special="all")
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.decode(ids) == vocabulary.decode(ids, skip_special_tokens=False) == normal


@pytest.mark.parametrize("alphabet", ["a", "ab", "abc"])
def test_merges_go_by_rank_whatever_the_vocabulary(tmp_path: Path, alphabet: str) -> None:
    generator = random.Random(alphabet)
    for round_number in range(20):
        ranks = random_ranks(generator, alphabet, count=40)
        folder = write_folder(tmp_path / str(round_number), ranks, "QWenTokenizer", "qwen.tiktoken")
        tokenizer, expected = Tokenizer.from_folder(folder), oracle(ranks, "QWenTokenizer", QWEN_SPLIT)
        for _ in range(50):
            text = "".join(generator.choices(alphabet, k=generator.randrange(1, 40)))
            assert tokenizer.encode(text) == expected.encode(text)


def test_ids_decode_as_in_tiktoken() -> None:
    tokenizer, vocabulary = Tokenizer.from_folder(FIXTURE.parent), Vocabulary.from_folder(str(FIXTURE.parent))
    ranks = real_ranks()
    expected = oracle(ranks, "QWenTokenizer", QWEN_SPLIT)
    generator = random.Random(3)
    for _ in range(500):
        ids = [generator.randrange(expected.n_vocab) for _ in range(generator.randrange(1, 12))]
        assert tokenizer.decode(ids) == vocabulary.decode(ids, skip_special_tokens=False) == expected.decode(ids)
        shown = [token_id for token_id in ids if token_id < len(ranks)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == expected.decode(shown)


def test_qwen_has_the_special_tokens_that_its_authors_publish() -> None:
    special = special_tokens("QWenTokenizer", 151643)
    assert len(special) == 208
    assert special["<|endoftext|>"] == 151643 and special["<|im_end|>"] == 151645 and special["<|extra_204|>"] == 151850
    tokenizer = Tokenizer.from_folder(FIXTURE.parent)
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.bos_token is None


def test_glm4_puts_its_prefix_in_front_and_takes_its_tokens_from_the_folder(tmp_path: Path) -> None:
    ranks = real_ranks()
    first = len(ranks)
    names = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>"]
    added = {str(first + index): {"content": name, "special": True} for index, name in enumerate(names)}
    fields = {"added_tokens_decoder": added, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    for tokenizer_class in ("ChatGLM4Tokenizer", "ChatGLMTokenizer"):
        folder = write_folder(tmp_path, ranks, tokenizer_class, "tokenizer.model", **fields)
        tokenizer = Tokenizer.from_folder(folder)
        plain = tokenizer.encode("Hi", add_special_tokens=False)
        assert tokenizer.encode("Hi") == [first + 2, first + 4, *plain]
        assert tokenizer.encode("<|user|>", add_special_tokens=False) == [first + 7]
        assert tokenizer.convert_tokens_to_ids("<|observation|>") == first + 9  # of the class
        assert Tokenizer.from_folder(folder, mode="slow").encode("Hi") == tokenizer.encode("Hi")


def test_a_vocabulary_of_the_size_of_qwens_loads_in_seconds(tmp_path: Path) -> None:
    generator = random.Random(0)
    pool = [bytes([byte]) for byte in b"abcdefghijklmnopqrstuvwxyz"]
    ranks = dict(BYTES)
    while len(ranks) < 150_000:
        token = generator.choice(pool) + generator.choice(pool)
        if token not in ranks and len(token) <= 12:
            ranks[token] = len(ranks)
            pool.append(token)
    folder = write_folder(tmp_path, ranks, "QWenTokenizer", "qwen.tiktoken")
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode(tokenizer.encode("some words")) == "some words"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"IQ== 0\nIQ=\n", "line 2 must be a token in base64 and its rank, got 'IQ='"),
        (b"IQ== 0\nIg== -1\n", "line 2 must be"),
        (b"IQ== 0\nIg== 99999999999\n", "line 2 must be"),
        (b"IQ== 0\n\xff\xff\xff\xff 1\n", "line 2 must be"),
        (b"IQ== 0\nIQ== 1\n", "line 2 gives a token a second rank"),
        (b"IQ== 0\nIg== 1\n", "has no token for the byte 0x00"),
        (b"", "has no token for the byte 0x00"),
        (base64.b64encode(b"a" * (MAX_TOKEN_BYTES + 1)) + b" 0\n", "line 1 must be a token of at most 1024 bytes"),
        (b"".join(b"%s 7\n" % base64.b64encode(token) for token in BYTES), "have the same id 7"),
    ],
)
def test_damaged_vocabularies_are_refused_with_line_and_file(tmp_path: Path, content: bytes, message: str) -> None:
    write_folder(tmp_path, {}, "QWenTokenizer", "qwen.tiktoken")
    (tmp_path / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(ValueError, match=rf"qwen\.tiktoken\] .*{message}") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_added_token_cannot_have_the_id_of_another_token(tmp_path: Path) -> None:
    fields = {"added_tokens_decoder": {"5": {"content": "<x>"}}}
    folder = write_folder(tmp_path, real_ranks(), "QWenTokenizer", "qwen.tiktoken", **fields)
    with pytest.raises(ValueError, match=r"qwen\.tiktoken\] the tokens .* and '<x>' have the same id 5"):
        Tokenizer.from_folder(folder)


def test_a_class_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, real_ranks(), "OtherTokenizer", "other.tiktoken")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json\] tokenizer_class='OtherTokenizer' .*QWenTokenizer"):
        Tokenizer.from_folder(folder)
    write_folder(tmp_path, real_ranks(), "QWenTokenizer", "qwen.tiktoken")
    with pytest.raises(ValueError, match=r"several tiktoken vocabularies: other\.tiktoken, qwen\.tiktoken"):
        Tokenizer.from_folder(tmp_path)


def test_dbrx_without_a_vocabulary_is_told_which_file_is_missing(tmp_path: Path) -> None:
    fields = {"tokenizer_class": "TiktokenTokenizerWrapper", "model_name": "gpt-4"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    canary = tmp_path / "canary"
    (tmp_path / "tiktoken.py").write_text(f"open({str(canary)!r}, 'w')")
    for read in (Tokenizer.from_folder, Vocabulary.from_folder):
        with pytest.raises(FileNotFoundError, match=r"TiktokenTokenizerWrapper reads cl100k_base\.tiktoken"):
            read(str(tmp_path))
    assert not canary.exists()
