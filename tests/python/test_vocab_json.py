"""Folders with GPT-2's vocab.json and merges.txt only, held against the tokenizers library's own classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import ByteLevelBPETokenizer, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from quire._core import Vocabulary
from quire.tokenizer import Tokenizer
from quire.tokenizer_classes import QWEN_SPLIT

FIXTURE = Path(__file__).resolve().parent.parent / "data" / "text" / "vocab_json"
TEXTS = ["Hello, wörld!\n\n  你好 👩‍👩‍👧 it's 1234", "", " a", "a", "    four  spaces\t", "Voilà, l'été où naïveté"]


def pair_of_files(folder: Path, **config: Any) -> Path:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FIXTURE / name, folder)
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_texts_have_the_ids_of_the_librarys_byte_level_class(tmp_path: Path, add_prefix_space: bool) -> None:
    folder = pair_of_files(tmp_path, tokenizer_class="GPT2Tokenizer", add_prefix_space=add_prefix_space)
    tokenizer = Tokenizer.from_folder(folder)
    files = (str(FIXTURE / "vocab.json"), str(FIXTURE / "merges.txt"))
    library = ByteLevelBPETokenizer.from_file(*files, add_prefix_space=add_prefix_space)
    for text in TEXTS:
        ids = library.encode(text).ids
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == library.decode(ids)


def test_qwen2_splits_and_normalizes_in_its_own_way(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(pair_of_files(tmp_path, tokenizer_class="Qwen2Tokenizer"))
    library: Any = LibraryTokenizer(models.BPE.from_file(str(FIXTURE / "vocab.json"), str(FIXTURE / "merges.txt")))
    library.normalizer = normalizers.NFC()
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), bytes_only])
    library.decoder = decoders.ByteLevel()
    for text in [*TEXTS, "e\u0301te\u0301"]:
        assert tokenizer.encode(text) == library.encode(text).ids


def test_opt_puts_its_bos_in_front(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(FIXTURE)
    plain = tokenizer.encode("a b", add_special_tokens=False)
    assert tokenizer.bos_token == tokenizer.eos_token == "</s>"
    assert tokenizer.encode("a b") == [2, *plain]
    assert tokenizer.decode([2, *plain], skip_special_tokens=True) == "a b"
    without = Tokenizer.from_folder(pair_of_files(tmp_path, bos_token="</s>"))
    assert without.encode("a b") == plain


def test_added_tokens_keep_the_ids_of_their_file(tmp_path: Path) -> None:
    folder = pair_of_files(tmp_path, pad_token="<pad>")
    size = len(json.loads((FIXTURE / "vocab.json").read_text()))
    (folder / "added_tokens.json").write_text(json.dumps({"        ": size, "<tool>": size + 5}))
    tokenizer, vocabulary = Tokenizer.from_folder(folder), Vocabulary.from_folder(str(folder))
    assert len(tokenizer) == vocabulary.size == size + 6 and tokenizer.vocab_size == size
    assert tokenizer.encode("        <tool><pad>") == [size, size + 5, 1]
    assert tokenizer.decode([size, size + 5, 1], skip_special_tokens=True) == "        <tool>"
    assert vocabulary.decode([size, size + 5, 1], skip_special_tokens=True) == "        <tool>"


def test_end_of_text_is_special_where_no_file_says_so(tmp_path: Path) -> None:
    vocab = json.loads((FIXTURE / "vocab.json").read_text())
    pair_of_files(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({**vocab, "<|endoftext|>": len(vocab)}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.special_tokens_map == dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    ids = tokenizer.encode("a<|endoftext|>")
    assert ids[-1] == tokenizer.eos_token_id == len(vocab)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"
    assert Vocabulary.from_folder(str(tmp_path)).decode(ids, skip_special_tokens=True) == "a"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[]", "must hold an object"),
        ("vocab.json", '{"a": "0"}', "token 'a' must have an id in .*got '0'"),
        ("vocab.json", '{"a": -1}', "token 'a' must have an id"),
        ("vocab.json", '{"a": 4194304}', "token 'a' must have an id"),
        ("vocab.json", '{"a": 0, "b": 0}', "'a' and 'b' have the same id 0"),
        ("merges.txt", "#version: 0.2\na b c\n", "line 2 must be two tokens"),
        ("merges.txt", "#version: 0.2\nab\n", "line 2 must be two tokens"),
        ("merges.txt", "nosuch token\n", "line 1 must be two tokens .*got 'nosuch token'"),
        ("added_tokens.json", '{"a": 1}', None),
        ("added_tokens.json", '{"<x>": 3}', "have the same id 3"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str | None) -> None:
    pair_of_files(tmp_path)
    if name == "vocab.json":
        (tmp_path / "merges.txt").write_text("")
    (tmp_path / name).write_text(content)
    pattern = r"vocab\.json\] the added token 'a' must have the id" if message is None else message
    with pytest.raises(ValueError, match=pattern) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_merges_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (pair_of_files(tmp_path) / "merges.txt").write_bytes(b"\xff \xfe\n")
    with pytest.raises(ValueError, match=r"merges\.txt\] not valid UTF-8"):
        Tokenizer.from_folder(tmp_path)


def test_a_class_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer_class='ClipTokenizer' is not known .*save_pretrained"):
        Tokenizer.from_folder(pair_of_files(tmp_path, tokenizer_class="ClipTokenizerFast"))
