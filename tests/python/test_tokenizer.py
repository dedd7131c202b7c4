"""The tokenizer's face: what it makes of texts and ids, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from quire.tokenizer import MAX_CHARACTERS, Tokenizer, load_tokenizer

DATA = Path(__file__).resolve().parent.parent / "data" / "text"
TEXT = "Hello, wörld!\n\n  你好 👩‍👩‍👧 <s> 1+1"


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return Tokenizer.from_folder(DATA / "byte_level")


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    return Tokenizer.from_folder(DATA / "byte_fallback")


def sentencepiece_folder(folder: Path, **config: Any) -> Path:
    shutil.copy(DATA / "sentencepiece_bpe" / "tokenizer.model", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["llama_tok", "gpt2_tok"])
def test_golden_texts_and_ids_agree(shared: Path, name: str) -> None:
    folder = shared / "golden" / name
    tokenizer = Tokenizer.from_folder(folder, mode="slow")
    golden = json.loads((folder / "golden_tokenizer.json").read_text())
    for entry in golden["encode"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"]
        assert tokenizer.encode(entry["text"], add_special_tokens=False) == entry["ids_no_special"]
        assert tokenizer.decode(entry["ids_no_special"]) == entry["decoded"]
        assert tokenizer.decode(entry["ids"], skip_special_tokens=True) == entry["decoded_skip_special"]
    prefixes = golden["prefix_decode"]
    for length, text in enumerate(prefixes["texts"], start=1):
        assert tokenizer.decode(prefixes["ids"][:length]) == text


def test_text_comes_back(byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    assert byte_level.decode(byte_level.encode(TEXT)) == TEXT
    assert byte_fallback.decode(byte_fallback.encode("a\n你好 b"), skip_special_tokens=True) == "a\n你好 b"


def test_special_tokens_are_added_unless_not_wanted_and_recognised_in_text(byte_fallback: Tokenizer) -> None:
    plain = byte_fallback.encode("a", add_special_tokens=False)
    assert byte_fallback.encode("a") == [byte_fallback.bos_token_id, *plain]
    assert byte_fallback.eos_token_id in byte_fallback.encode("a</s>b")


def test_a_batch_is_encoded_as_its_texts(byte_level: Tokenizer) -> None:
    texts = ["", "a", TEXT]
    assert byte_level.encode_batch(texts) == [byte_level.encode(text) for text in texts]
    assert byte_level.encode_batch([]) == []
    assert byte_level.batch_decode(byte_level.encode_batch(texts)) == texts


def test_calling_it_gives_ids_and_mask_as_transformers_does(byte_level: Tokenizer) -> None:
    encoded = byte_level(TEXT)
    assert encoded.input_ids == encoded["input_ids"] == byte_level.encode(TEXT)
    assert encoded.attention_mask == [1] * len(encoded.input_ids)
    assert byte_level(["a", "b c"]).input_ids == byte_level.encode_batch(["a", "b c"])


def test_vocabulary_can_be_asked(byte_fallback: Tokenizer) -> None:
    vocabulary = byte_fallback.get_vocab()
    assert len(vocabulary) == len(byte_fallback) == byte_fallback.vocab_size + 2  # two added tokens
    assert byte_fallback.convert_tokens_to_ids("<0x41>") == 3 + 0x41
    assert byte_fallback.convert_tokens_to_ids(["</s>", "no such token"]) == [2, byte_fallback.unk_token_id]
    assert byte_fallback.convert_ids_to_tokens(2) == "</s>"
    assert byte_fallback.convert_ids_to_tokens([1, 10**6, -1]) == ["<s>", None, None]
    assert "".join(byte_fallback.tokenize("a")) == "▁a"
    assert byte_fallback.special_tokens_map == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert byte_fallback.all_special_ids == [1, 2, 0]
    assert byte_fallback.pad_token is None and byte_fallback.pad_token_id is None


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "unigram", "sentencepiece_bpe"])
def test_ids_without_a_token_decode_to_nothing(name: str) -> None:
    tokenizer = Tokenizer.from_folder(DATA / name)
    assert tokenizer.decode([-1, len(tokenizer), 2**31, 2**40]) == ""
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(300) == tokenizer.decode([300]) != ""


def test_tokenizer_config_decides_about_bos_and_eos_for_llama(tmp_path: Path) -> None:
    shutil.copy(DATA / "byte_fallback" / "tokenizer.json", tmp_path)
    fields = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    for begins, ends in ((True, True), (False, True), (False, False)):
        config = {**fields, "add_bos_token": begins, "add_eos_token": ends}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = Tokenizer.from_folder(tmp_path)
        plain = tokenizer.encode("a b", add_special_tokens=False)
        assert tokenizer.encode("a b") == [1] * begins + plain + [2] * ends


def test_truncation_and_padding_of_the_file_have_no_effect(tmp_path: Path) -> None:
    content = json.loads((DATA / "byte_level" / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_sentencepiece_model_follows_llama_defaults(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    ids = tokenizer.encode("The dog")
    assert ids[0] == 1 and ids[-1] != 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The dog"
    assert tokenizer.decode(ids) == "<s> The dog"


def test_sentencepiece_model_with_bos_off_and_eos_on(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path, add_bos_token=False, add_eos_token=True))
    ids = tokenizer.encode("The dog")
    assert ids[0] != 1 and ids[-1] == 2


def test_sentencepiece_text_is_split_at_added_tokens(tmp_path: Path) -> None:
    size = len(Tokenizer.from_folder(sentencepiece_folder(tmp_path)))
    added = {
        "1": {"content": "<s>", "special": True},
        "262": {"content": "<|im_start|>", "special": True},
        str(size): {"content": "<tool>", "special": False, "lstrip": True, "rstrip": True},
        str(size + 1): {"content": "<tool>er", "special": True},
    }
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path, added_tokens_decoder=added, add_bos_token=False))
    dog = tokenizer.encode("dog")
    assert tokenizer.encode("dog<|im_start|>dog") == [*dog, 262, *dog]
    assert tokenizer.encode("dog  <tool>  dog<tool>er") == [*dog, size, *dog, size + 1]
    assert len(tokenizer) == size + 2 and tokenizer.vocab_size == size
    assert tokenizer.get_vocab()["<tool>"] == size
    assert tokenizer.convert_ids_to_tokens([262, size]) == ["<|im_start|>", "<tool>"]
    ids = [*dog, 262, *dog, size, size + 1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "dog dog<tool>"
    assert tokenizer.decode(ids) == "dog<|im_start|> dog<tool><tool>er"


@pytest.mark.parametrize(
    ("tokenizer_class", "adds_bos"),
    [("BaichuanTokenizer", False), ("InternLMTokenizer", True), ("InternLM2Tokenizer", True), ("OrionTokenizer", True)],
)
def test_sentencepiece_class_decides_about_bos_where_the_folder_does_not(
    tmp_path: Path, tokenizer_class: str, adds_bos: bool
) -> None:
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path, tokenizer_class=tokenizer_class))
    plain = tokenizer.encode("The dog", add_special_tokens=False)
    assert tokenizer.encode("The dog") == [1] * adds_bos + plain
    for wanted in (True, False):
        sentencepiece_folder(tmp_path, tokenizer_class=tokenizer_class, add_bos_token=wanted)
        assert Tokenizer.from_folder(tmp_path).encode("The dog") == [1] * wanted + plain


def test_chatglm_numbers_its_own_tokens_and_puts_two_in_front(tmp_path: Path) -> None:
    size = len(Tokenizer.from_folder(sentencepiece_folder(tmp_path)))
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path, tokenizer_class="ChatGLMTokenizer"))
    assert len(tokenizer) == size + 9 and tokenizer.vocab_size == size
    dog = tokenizer.encode("dog", add_special_tokens=False)
    assert tokenizer.encode("dog") == [size + 1, size + 3, *dog]
    assert tokenizer.convert_ids_to_tokens(range(size, size + 9)) == [
        "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    ]  # fmt: skip
    assert tokenizer.encode("[gMASK]sop<|user|>dog", add_special_tokens=False) == [size + 1, size + 3, size + 6, *dog]
    assert tokenizer.decode([size + 1, size + 3, *dog, size + 6], skip_special_tokens=True) == "dog"


def test_a_word_with_sop_in_it_stays_a_word(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path, tokenizer_class="ChatGLMTokenizer"))
    plain = Tokenizer.from_folder(sentencepiece_folder(tmp_path, tokenizer_class="BaichuanTokenizer"))
    assert tokenizer.encode("philosophy eop", add_special_tokens=False) == plain.encode("philosophy eop")


def test_gemma_names_its_special_tokens_in_its_own_way(tmp_path: Path) -> None:
    added = {"1": {"content": "<bos>", "special": True}}
    fields = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "added_tokens_decoder": added}
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path, **fields))
    assert tokenizer.encode("The dog")[0] == 1
    assert tokenizer.eos_token is None  # "</s>" is a word there


def test_newer_llama_behaviour_puts_no_space_behind_special_tokens(tmp_path: Path) -> None:
    old = Tokenizer.from_folder(sentencepiece_folder(tmp_path, legacy=True))
    new = Tokenizer.from_folder(sentencepiece_folder(tmp_path, legacy=False))
    assert new.encode("The dog") == old.encode("The dog")
    assert new.tokenize("</s>dog") == ["</s>", "dog"]
    assert old.tokenize("</s>dog") == ["</s>", "▁dog"]
    assert new.decode(new.encode("The dog"), skip_special_tokens=True) == "The dog"


def test_slow_mode_prefers_the_sentencepiece_model(tmp_path: Path) -> None:
    sentencepiece_folder(tmp_path)
    shutil.copy(DATA / "byte_level" / "tokenizer.json", tmp_path)
    assert load_tokenizer(tmp_path).convert_tokens_to_ids("<|endoftext|>") == 0
    assert load_tokenizer(tmp_path, "slow").convert_tokens_to_ids("</s>") == 2


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece_bpe"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab\ud800", "lone surrogate at position 2"),
        ("ab\0", "null characters, got one at position 2"),
        ("a" * (MAX_CHARACTERS + 1), "at most 16777216 characters, got 16777217"),
        (b"ab", "must be a string"),
        (None, "must be a string"),
    ],
    ids=["surrogate", "null", "huge", "bytes", "none"],
)
def test_what_is_no_text_is_refused_with_its_name(name: str, text: Any, message: str) -> None:
    tokenizer = Tokenizer.from_folder(DATA / name)
    with pytest.raises(ValueError, match=f"text .*{message}"):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match=rf"texts\[1\] .*{message}"):
        tokenizer.encode_batch(["a", text])


def test_long_texts_of_one_word_are_encoded(byte_level: Tokenizer) -> None:
    text = "a" * 200_000
    assert byte_level.decode(byte_level.encode(text)) == text


def test_folder_without_tokenizer_files_says_what_to_do(tmp_path: Path) -> None:
    for names in ([], ["vocab.json"]):
        for name in names:
            (tmp_path / name).write_text("{}")
        with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json, .*tokenizer=.*skip_tokenizer_init=True"):
            Tokenizer.from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.*is not a folder"):
        Tokenizer.from_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}'),
        ("special_tokens_map.json", "[]"),
        ("added_tokens.json", '{"<pad>": "3"}'),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    tiny.write_tokenizer(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        Tokenizer.from_folder(tmp_path)


def test_damaged_sentencepiece_model_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\x0a\x03", b"no model"):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.model\] not a SentencePiece model"):
            Tokenizer.from_folder(tmp_path)
