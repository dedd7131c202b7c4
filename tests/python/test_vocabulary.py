"""The engine's own decoding, held against the libraries over random ids and over texts in many scripts."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quire._core import Vocabulary
from quire.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parent.parent / "data" / "text"
FOLDERS = sorted(folder.name for folder in DATA.iterdir())
# The Strip decoder of tokenizers panics where there is less text than it may strip; the C++ tests have the other cases.
LIBRARY_PANICS = {"small_strip_fused"}

TEXTS = [
    "Voilà, l'été où naïveté et façade œuvrent; Größe, smørrebrød, Łódź, ¿señor?",
    "Съешь же ещё этих мягких французских булок да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "نص حكيم له سر قاطع وذو شأن عظيم",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "我能吞下玻璃而不伤身体。",
    "いろはにほへと ちりぬるを カタカナ",
    "다람쥐 헌 쳇바퀴에 타고파",
    "🙂 👩‍👩‍👧 👨🏽‍🚀 🏳️‍🌈 🇫🇷🇯🇵 ❤️‍🔥 done",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "  leading,  double and trailing spaces\t\n\n  ",
    "<s> control </s> and <unk> words \ufffd ▁ Ġ",
]

Decode = Callable[[list[int], bool], str]


def load(folder: Path) -> tuple[Vocabulary, Tokenizer]:
    return Vocabulary.from_folder(str(folder)), Tokenizer.from_folder(folder)


def check_prefixes(vocabulary: Vocabulary, tokenizer: Tokenizer, ids: list[int]) -> None:
    for length in range(len(ids) + 1):
        for skip in (True, False):
            expected = tokenizer.decode(ids[:length], skip_special_tokens=skip)
            assert vocabulary.decode(ids[:length], skip_special_tokens=skip) == expected, (ids[:length], skip)


def random_ids(generator: random.Random, size: int) -> list[int]:
    """Any ids, or mostly those of one narrow range: byte tokens and special ones sit together."""
    start, width = (0, size + 3) if generator.random() < 0.5 else (generator.randrange(size), 40)
    return [min(start + generator.randrange(width), size + 2) for _ in range(generator.randrange(1, 20))]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in LIBRARY_PANICS])
def test_random_ids_decode_as_in_the_library(name: str) -> None:
    vocabulary, tokenizer = load(DATA / name)
    generator = random.Random(name)
    for _ in range(300):
        check_prefixes(vocabulary, tokenizer, random_ids(generator, vocabulary.size))


@pytest.mark.parametrize("name", [name for name in FOLDERS if not name.startswith("small_")])
def test_texts_in_many_scripts_come_back_as_in_the_library(name: str) -> None:
    vocabulary, tokenizer = load(DATA / name)
    for text in TEXTS:
        check_prefixes(vocabulary, tokenizer, tokenizer.encode(text))


def test_added_tokens_of_a_sentencepiece_model_decode_as_in_the_face(tmp_path: Path) -> None:
    shutil.copy(DATA / "sentencepiece_bpe" / "tokenizer.model", tmp_path)
    size = Vocabulary.from_folder(str(tmp_path)).size
    contents = {0: "<unk>", 1: "<s>", 5: "<0x02>", 262: "<|im_start|>", 263: "▁", size: "▁tool ", size + 2: "<x>"}
    pieces = Tokenizer.from_folder(tmp_path).convert_ids_to_tokens(range(size))
    contents |= {264: pieces[264], 265: pieces[265]}
    added = {
        str(token_id): {"content": content, "special": token_id % 2 == 0} for token_id, content in contents.items()
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    vocabulary, tokenizer = load(tmp_path)
    generator = random.Random(5)
    for _ in range(500):
        some = [*contents, 1, 2, 3 + 0xE6, 3 + 0x97, 3 + 0xA5, generator.randrange(size)]
        check_prefixes(vocabulary, tokenizer, generator.choices(some, k=12))


@pytest.mark.parametrize("folder", ["golden/llama_tok", "golden/gpt2_tok", "models/stories260k"])
def test_real_tokenizers_decode_as_in_the_library(shared: Path, folder: str) -> None:
    vocabulary, tokenizer = load(shared / folder)
    generator = random.Random(folder)
    for text in TEXTS:
        check_prefixes(vocabulary, tokenizer, tokenizer.encode(text))
    for _ in range(500):
        check_prefixes(vocabulary, tokenizer, random_ids(generator, vocabulary.size))


@pytest.mark.parametrize("name", FOLDERS)
def test_size_and_special_tokens_agree(name: str) -> None:
    vocabulary, tokenizer = load(DATA / name)
    assert vocabulary.size == len(tokenizer)
    for token_id in range(vocabulary.size):
        behind = vocabulary.decode([vocabulary.size - 1, token_id], skip_special_tokens=True)
        if vocabulary.is_special(token_id):
            assert behind == vocabulary.decode([vocabulary.size - 1], skip_special_tokens=True)
            assert vocabulary.token_text(token_id) != ""


def test_every_token_shows_a_text_that_is_unicode() -> None:
    for name in FOLDERS:
        vocabulary = Vocabulary.from_folder(str(DATA / name))
        for token_id in (-1, *range(vocabulary.size + 1)):
            vocabulary.token_text(token_id).encode()
