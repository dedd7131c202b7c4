"""The storyteller's data: books to documents, documents to tokens, tokens to rows of training and validation."""

from __future__ import annotations

import dataclasses
import json
import lzma
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
IGNORE_ID = -100


# Books of short tales get more weight and novels less: the model is to write little stories.
TALE_BOOKS = re.compile(
    r"Fairy|Tales|Aesop|Fifty Famous|Childhood's|Stories to Tell|East O' the Sun|Happy Prince|Dragons|Mighty Mikko"
)
BEDTIME_BOOKS = re.compile(
    r"Garis|Thornton W. Burgess|Raggedy|Rocking Horse|Candy Rabbit|O'Clock|Half-Past|Fatty Coon|Just So"
)
NATURE_BOOKS = re.compile(r"Burgess (Animal|Bird) Book")
WEIGHTS = {"tale": 1.5, "bedtime": 1.0, "novel": 0.7}
SHORT_STORY_BONUS = 2.0  # for stories that fit the context with their end, so that the model learns to end

# The narrator speaking of the book itself ("in the next story I shall tell you ...").
BOOK_TALK = re.compile(
    r"\b(next|last|another|other|first|following|this|before|previous) (bed-?time )?"
    r"(story|stories|chapter|book|volume)\b"
    r"|\bstory (before|after) this\b",
    re.IGNORECASE,
)
# A last sentence that announces another evening's story.
TEASER = re.compile(
    r"(?:^|(?<=[.!?\"] ))[^.!?]*\b(to-?morrow night|you shall hear|tell you|like to hear|good-bye for)\b.*$"
)


@dataclasses.dataclass
class Document:
    """One story or chapter: paragraphs joined by blank lines, with the weight it is sampled by."""

    text: str
    weight: float


@dataclasses.dataclass
class Split:
    """Encoded documents laid end to end, each from <s> to </s>."""

    tokens: npt.NDArray[np.uint16]
    bounds: npt.NDArray[np.int64]  # document i is tokens[bounds[i]:bounds[i + 1]]
    weights: npt.NDArray[np.float32]
    paragraph_id: int  # the token between two paragraphs


def clean_chapter(chapter: str) -> str:
    """Return a chapter as prose paragraphs; verse and the narrator's talk about the book are dropped."""
    paragraphs: list[str] = []
    for paragraph in re.split(r"\n\s*\n", chapter.strip()):
        if "\n" in paragraph.strip():
            continue  # verse is the only text that keeps its line breaks
        text = re.sub(r"\s+", " ", paragraph).strip()
        text = re.sub(r"(?<=[a-z,;] )A (?=[a-z])", "a ", text)  # left over from lower-casing stressed words
        text = re.sub(r"\s+([,;:.!?])", r"\1", text)
        if not text or (BOOK_TALK.search(text) and '"' not in text):
            continue
        paragraphs.append(text)
    while paragraphs and (BOOK_TALK.search(paragraphs[-1]) or paragraphs[-1][-1] not in "\"'.!?)"):
        paragraphs.pop()
    if paragraphs and '"' not in paragraphs[-1]:
        paragraphs[-1] = TEASER.sub("", paragraphs[-1]).strip()
    return "\n\n".join(filter(None, paragraphs))


def read_documents(corpus: Path) -> list[Document]:
    """Read the corpus (``### book``, ``## chapter`` lines) and return its cleaned stories and chapters."""
    with lzma.open(corpus, "rt", encoding="utf-8") as file:
        books = re.split(r"(?m)^### ", file.read())[1:]
    documents: list[Document] = []
    for book in books:
        title, _, body = book.partition("\n")
        if NATURE_BOOKS.search(title):
            continue
        kind = "bedtime" if BEDTIME_BOOKS.search(title) else "tale" if TALE_BOOKS.search(title) else "novel"
        for chapter in re.split(r"(?m)^## .*$", body):
            text = clean_chapter(chapter)
            if len(text.split()) >= 50:
                documents.append(Document(text, WEIGHTS[kind]))
    return documents


def shingles(text: str, width: int = 8) -> set[int]:
    """Return the hashes of all runs of ``width`` words."""
    words = re.findall(r"[a-z]+", text.lower())
    return {hash(tuple(words[i : i + width])) for i in range(len(words) - width + 1)}


def hold_out(documents: list[Document], share: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Split into training and validation documents.

    A story that also stands in another book (more than 2 % of its eight-word runs found elsewhere) is never held out.
    """
    order = np.random.default_rng(seed).permutation(len(documents))
    candidates = {int(i): shingles(documents[i].text) for i in order[: int(2 * share * len(documents)) + 2]}
    owners: dict[int, list[int]] = {}
    for index, runs in candidates.items():
        for run in runs:
            owners.setdefault(run, []).append(index)
    repeated = dict.fromkeys(candidates, 0)
    for index, document in enumerate(documents):
        for run in shingles(document.text):
            for owner in owners.get(run, ()):
                repeated[owner] += owner != index
    unique = [i for i in candidates if repeated[i] <= 0.02 * len(candidates[i])]
    held = set(unique[: max(1, int(share * len(documents)))])
    return [d for i, d in enumerate(documents) if i not in held], [documents[i] for i in sorted(held)]


# --------------------------------------------------------------------------------------------------------------------
# Tokenizer


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a BPE tokenizer in the manner of Llama: <unk>, <s>, </s>, 256 bytes, then merges.

    Merges are learned inside words, numbers and runs of punctuation only; the finished tokenizer needs no
    pre-tokenizer, because no merge crosses those borders. Text outside the alphabet falls back to bytes.
    """
    specials = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizer
    pattern = Regex(r"'(?:s|t|re|ve|m|ll|d)(?![A-Za-z])|▁?[A-Za-z]+|▁?[0-9]|\n+|▁?[^A-Za-z0-9▁\n]+|▁")
    learner.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocab_size - len(specials) - len(byte_tokens), show_progress=False),
    )
    learned = json.loads(learner.to_str())["model"]
    ordered = [token for token, _ in sorted(learned["vocab"].items(), key=lambda item: item[1])]
    vocab = {token: index for index, token in enumerate(specials + byte_tokens + ordered)}
    merges = [tuple(merge) for merge in learned["merges"]]

    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS_ID)]
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> Split:
    """Encode documents into one :class:`Split`."""
    encoded = tokenizer.encode_batch([document.text for document in documents])
    pieces = [np.array([*encoding.ids, EOS_ID], np.uint16) for encoding in encoded]
    bounds = np.cumsum([0, *(len(piece) for piece in pieces)], dtype=np.int64)
    weights = np.array([document.weight for document in documents], np.float32)
    paragraph_id = tokenizer.token_to_id("\n\n")
    assert paragraph_id is not None
    return Split(np.concatenate(pieces), bounds, weights, paragraph_id)


def prepare(corpus: Path, work: Path, vocab_size: int, num_documents: int | None, seed: int) -> None:
    """Write ``tokenizer.json`` and ``tokens.npz`` (both splits) to ``work``, of all documents or the first ones."""
    documents = read_documents(corpus)[:num_documents]
    train, valid = hold_out(documents, share=0.015, seed=seed)
    tokenizer = train_tokenizer([document.text for document in train], vocab_size)
    tokenizer.save(str(work / "tokenizer.json"))
    arrays: dict[str, npt.ArrayLike] = {}
    for name, group in (("train", train), ("valid", valid)):
        split = encode(tokenizer, group)
        arrays |= {f"{name}_{key}": value for key, value in vars(split).items()}
        num_bytes = sum(len(document.text.encode()) for document in group)
        print(f"prepare {name}: documents={len(group)} tokens={len(split.tokens)} bytes={num_bytes}")
    np.savez_compressed(work / "tokens.npz", **arrays)


def load_split(work: Path, name: str) -> Split:
    """Load the ``train`` or ``valid`` split written by :func:`prepare`."""
    with np.load(work / "tokens.npz") as arrays:
        tokens, bounds, weights, paragraph_id = (arrays[f"{name}_{field.name}"] for field in dataclasses.fields(Split))
    return Split(tokens, bounds, weights, int(paragraph_id))


def abridge(
    document: npt.NDArray[np.uint16], paragraph_id: int, context: int, rng: np.random.Generator
) -> npt.NDArray[np.uint16] | None:
    """Return the first and the last paragraphs of a long document, joined to fit the context, or None.

    Few tales fit whole; from these the model learns to come from a beginning to an end.
    """
    head, tail = rng.integers(context // 6, context // 2, 2)
    breaks = np.flatnonzero(document == paragraph_id)
    ends, starts = breaks[breaks < head], breaks[breaks >= len(document) - tail]
    if len(ends) == 0 or len(starts) == 0:
        return None
    return np.concatenate([document[: ends[-1]], document[starts[0] :]])


def epoch_rows(split: Split, context: int, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Return one epoch of training rows[R, context + 1], shuffled.

    A document longer than a row gives overlapping rows: one from its <s>, one up to its </s>, jittered ones between,
    and, unless it is from a novel, an abridged copy. Shorter documents and copies are joined in random order. A
    document of weight w appears w times on average.
    """
    width = context + 1
    lengths = np.diff(split.bounds)
    weights = split.weights * np.where(lengths < width, SHORT_STORY_BONUS, 1.0)
    repeats = np.floor(weights + rng.random(len(weights))).astype(int)
    starts: list[npt.NDArray[np.int64]] = []
    short: list[npt.NDArray[np.uint16]] = []
    for index in np.repeat(np.arange(len(repeats)), repeats):
        document = split.tokens[split.bounds[index] : split.bounds[index + 1]]
        if len(document) < width:
            short.append(document)
            continue
        first = np.linspace(0, len(document) - width, math.ceil(len(document) / context))
        if len(first) > 2:
            first[1:-1] += rng.uniform(-0.4, 0.4, len(first) - 2) * first[1]
        starts.append(split.bounds[index] + first.astype(np.int64))
        if split.weights[index] > WEIGHTS["novel"]:
            copy = abridge(document, split.paragraph_id, context, rng)
            short.extend([] if copy is None else [copy])
    rows = np.empty((0, width), np.uint16)
    if starts:
        rows = split.tokens[np.concatenate(starts)[:, None] + np.arange(width)]
    if short:
        stream = np.concatenate([short[i] for i in rng.permutation(len(short))])
        rows = np.concatenate([rows, stream[: len(stream) // width * width].reshape(-1, width)])
    return rng.permutation(rows)


def validation_rows(split: Split, context: int) -> npt.NDArray[np.int64]:
    """Return rows[R, context + 1] that score every token of every document once, padded with ``IGNORE_ID``."""
    rows: list[npt.NDArray[np.int64]] = []
    for begin, end in zip(split.bounds[:-1], split.bounds[1:], strict=True):
        for start in range(begin, end - 1, context):
            row = np.full(context + 1, IGNORE_ID, np.int64)
            piece = split.tokens[start : min(start + context + 1, end)]
            row[: len(piece)] = piece
            rows.append(row)
    return np.stack(rows)
