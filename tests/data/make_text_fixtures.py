#!/usr/bin/env python3
"""Make the tokenizers of tests/data/text and the texts that the libraries decode with them.

    python tests/data/make_text_fixtures.py

Needs tokenizers >= 0.23, sentencepiece and tiktoken. Every folder gets the tokenizer's files and cases.json: lists of
ids with the library's decoding of every prefix, each written as [bytes shared with the prefix before, the rest]. The
C++ tests hold the detokenizer against them; the Python tests use the same folders and the libraries themselves.
Training breaks ties at random, so two runs make different vocabularies; no test depends on one.
"""

import base64
import io
import json
import os
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent / "text"

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the other dogs look on.",
    "  two spaces in front,   three inside, tabs\tand\nnew\n\nlines  ",
    "Voilà, l'été où naïveté et façade œuvrent; Größe, smørrebrød, Łódź, ¿señor?",
    "Съешь же ещё этих мягких французских булок да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "我能吞下玻璃而不伤身体。视野无限广,窗外有蓝天",
    "いろはにほへと ちりぬるを 色は匂へど 散りぬるを カタカナ",
    "다람쥐 헌 쳇바퀴에 타고파 키스의 고유조건은",
    "🙂 👩‍👩‍👧 👨🏽‍🚀 🏳️‍🌈 🇫🇷🇯🇵 ❤️‍🔥 done",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ∑∫√∞≠≈",
    'def f(x):\n    return {"key": x ** 2}  # comment\n',
    "é (composed) and é (decomposed), ﬁ ligature, 　ideographic space, zero​width",
    "It's 12345 67.89 -1e-5; don't! <s> is no token here </s> <0x41> ▁ Ġ � end",
]

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SEQUENCES_PER_TOKENIZER = 80
MAX_LENGTH = 24


class Decode(Protocol):
    def __call__(self, ids: list[int], skip: bool) -> str: ...


def byte_level() -> Tokenizer:
    """GPT-2's kind, with added tokens that are special, that hold spaces and that are no byte-level text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens(["  added words ", "日本", AddedToken("Ġé", normalized=False)])
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama's kind: characters outside the vocabulary become byte tokens."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁"), "isolated")
    learner.train_from_iterator(TEXTS[:6], trainers.BpeTrainer(vocab_size=150, limit_alphabet=70))
    learned = json.loads(learner.to_str())["model"]
    tokens = [*SPECIAL, *BYTES, *sorted(learned["vocab"], key=learned["vocab"].get)]
    merges = [tuple(merge) for merge in learned["merges"]]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("new words", normalized=True), AddedToken("<tool>", normalized=False)])
    return tokenizer


def unigram() -> Tokenizer:
    """T5's and XLM-R's kind: Metaspace around a unigram model."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=420, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(["<extra_id_0>"])
    return tokenizer


# Decoders that no tokenizer above has, on one small vocabulary with everything that they look for.
SMALL_VOCABULARY = [
    *SPECIAL, "a", "b", "▁", "▁a", "a▁b", "▁▁", "ab</w>", "b</w>", "</w>", " ", "  ", " a ", "é", "日", "x" * 30,
    "<0x41>", "<0x20>", "<0xE6>", "<0x97>", "<0xA5>", "<0xff>", "<0x+A>", "<0xG0>", "Ġ", "Ġa", "æĹ", "¥", "\n",
]  # fmt: skip
SMALL_DECODERS: dict[str, Any] = {
    "gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "fuse_first": decoders.Sequence([decoders.Fuse(), decoders.Metaspace()]),
    "metaspace_bytes": decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()]),
    "metaspace_never": decoders.Metaspace(prepend_scheme="never"),
    "bytes_metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "strip_pieces": decoders.Sequence([decoders.Strip(" ", 2, 0), decoders.Replace("a", "<a>"), decoders.Fuse()]),
    "strip_fused": decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 2, 1)]),
    "replace_fused": decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Replace("a", "é")]),
    "words": decoders.BPEDecoder(),
    "words_fused": decoders.Sequence([decoders.BPEDecoder(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
    "metaspace_byte_level": decoders.Sequence([decoders.Replace("▁", "Ġ"), decoders.ByteLevel()]),
    "none": None,
}


def small(decoder: Any) -> Tokenizer:
    vocab = {token: index for index, token in enumerate(SMALL_VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(["▁added "])
    return tokenizer


SENTENCEPIECE_MODELS: dict[str, dict[str, Any]] = {
    "sentencepiece_bpe": {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
    },
    "sentencepiece_unigram": {
        "model_type": "unigram",
        "vocab_size": 420,
        "hard_vocab_limit": False,
        "unk_surface": " (?) ",
        "user_defined_symbols": ["<tool>", "▁user▁"],
        "control_symbols": ["<ctrl>"],
    },
    "sentencepiece_no_prefix": {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    },
}


def train_sentencepiece(settings: dict[str, Any]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:4] if settings.get("byte_fallback") else TEXTS),
        model_writer=model,
        minloglevel=2,
        num_threads=1,
        normalization_rule_name="identity",
        **settings,
    )
    return model.getvalue()


def prefix_deltas(decode: Callable[[list[int]], str], ids: list[int]) -> list[list[Any]]:
    """Every prefix's text, as bytes that it shares with the text before and what follows them."""
    deltas: list[list[Any]] = []
    before = ""
    for length in range(1, len(ids) + 1):
        text = decode(ids[:length])
        shared = len(os.path.commonprefix([before, text]))
        deltas.append([len(text[:shared].encode()), text[shared:]])
        before = text
    return deltas


def make_cases(name: str, size: int, encoded: Iterable[list[int]], decode: Decode, skips: list[bool]) -> list[Any]:
    """Encoded texts, pieces of them, and random ids, a few of which have no token."""
    generator = random.Random(name)
    sequences = [ids[start : start + MAX_LENGTH] for ids in encoded for start in (0, generator.randrange(1 + len(ids)))]
    while len(sequences) < 2 * SEQUENCES_PER_TOKENIZER:
        length = generator.randrange(1, MAX_LENGTH)
        sequences.append([generator.randrange(size + 2) for _ in range(length)])
    generator.shuffle(sequences)
    cases: list[Any] = []
    for ids in [[], *sequences]:
        skip = generator.choice(skips)
        try:
            texts = prefix_deltas(partial(decode, skip=skip), ids)
        except BaseException as error:
            # The Strip decoder of tokenizers panics where there is less text than it may strip.
            if type(error).__name__ != "PanicException":
                raise
            continue
        cases.append({"ids": ids, "skip": skip, "texts": texts})
    return cases[:SEQUENCES_PER_TOKENIZER]


def write(folder: Path, name: str, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / name).write_text(text.replace('{"ids"', '\n{"ids"') + "\n", encoding="utf-8")


def make_tokenizer(name: str, tokenizer: Tokenizer, config: dict[str, Any] | None = None) -> None:
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "tokenizer.json", json.loads(tokenizer.to_str()))
    if config is not None:
        write(folder, "tokenizer_config.json", config)
    encoded = [tokenizer.encode(text).ids for text in TEXTS]

    def decode(ids: list[int], skip: bool) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=skip))

    write(folder, "cases.json", make_cases(name, tokenizer.get_vocab_size(), encoded, decode, [True, False]))


def make_sentencepiece(name: str, settings: dict[str, Any]) -> None:
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    model = train_sentencepiece(settings)
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = processor.vocab_size()

    def decode(ids: list[int], skip: bool) -> str:
        return str(processor.decode([id for id in ids if id < size]))

    write(folder, "cases.json", make_cases(name, size, [processor.encode(text) for text in TEXTS], decode, [True]))


def learned_byte_level() -> Any:
    """Vocabulary and merges of a small byte-level BPE, the bytes in front."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return json.loads(learner.to_str())["model"]


def make_tiktoken(name: str) -> None:
    """A vocabulary of Qwen's kind, whose special tokens stand in no file."""
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    bytes_of = {stand_in: bytes([byte]) for byte, stand_in in enumerate(stand_ins())}
    ranks = {b"".join(map(bytes_of.__getitem__, token)): rank for token, rank in learned_byte_level()["vocab"].items()}
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items()]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "QWenTokenizer"})
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205))]
    special = {content: len(ranks) + index for index, content in enumerate(names)}
    encoding = tiktoken.Encoding(name, pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special)

    def decode(ids: list[int], skip: bool) -> str:
        return encoding.decode([token for token in ids if token < (len(ranks) if skip else encoding.n_vocab)])

    encoded = [encoding.encode_ordinary(text) for text in TEXTS]
    write(folder, "cases.json", make_cases(name, encoding.n_vocab, encoded, decode, [True, False]))


def make_vocab_json(name: str) -> None:
    """GPT-2's pair of files with an added token in its own file, as OPT and Phi have them."""
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    model = learned_byte_level()
    tokens = ["<s>", "<pad>", "</s>", *sorted(model["vocab"], key=model["vocab"].get)]
    vocab = {token: index for index, token in enumerate(tokens)}
    added = {"        ": len(tokens), "<tool>": len(tokens) + 1}
    write(folder, "vocab.json", vocab)
    merges = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    write(folder, "added_tokens.json", added)
    write(
        folder, "special_tokens_map.json", {"bos_token": "</s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"}
    )
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True})
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(content, normalized=False) for content in added])
    tokenizer.add_special_tokens(["</s>", "<pad>"])
    encoded = [tokenizer.encode(text).ids for text in TEXTS]

    def decode(ids: list[int], skip: bool) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=skip))

    write(folder, "cases.json", make_cases(name, tokenizer.get_vocab_size(), encoded, decode, [True, False]))


def stand_ins() -> list[str]:
    """GPT-2's printable characters for the bytes, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def main() -> None:
    make_tokenizer("byte_level", byte_level(), {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    make_tokenizer("byte_fallback", byte_fallback(), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    make_tokenizer("unigram", unigram(), {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})
    for name, decoder in SMALL_DECODERS.items():
        make_tokenizer(f"small_{name}", small(decoder))
    for name, settings in SENTENCEPIECE_MODELS.items():
        make_sentencepiece(name, settings)
    make_tiktoken("tiktoken")
    make_vocab_json("vocab_json")


if __name__ == "__main__":
    main()
