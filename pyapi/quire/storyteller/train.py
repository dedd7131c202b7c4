#!/usr/bin/env python3
"""Train the built-in storyteller: a 7 M parameter Llama that writes little fairy tales.

The script goes from the corpus to the shipped folder in six stages:

1. ``prepare``   clean the books, cut them into stories, hold some out, train the tokenizer, encode.
2. ``teacher``   train one or more larger models with strong regularisation.
3. ``generate``  let the teachers write new stories.
4. ``student``   train the small model on the teachers' soft labels, over real and generated stories.
5. ``endings``   make the small model readier to end a story.
6. ``export``    write config, tokenizer and bfloat16 weights, and print losses and samples.

Each stage leaves its result in ``--work`` and is skipped when that result exists, so an interrupted run can be
resumed by the same command. Example:

    python train.py --corpus stories.txt.xz --work work --out storyteller
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

STAGES = ("prepare", "teacher", "generate", "student", "endings", "export")
UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
IGNORE_ID = -100
PROMPTS = ("Once upon a time", "There was once a little", "The king said", "In a deep forest there lived an old")


# --------------------------------------------------------------------------------------------------------------------
# Settings


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of one Llama model; linear layers have no bias and the embedding is also the output layer."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_size: int
    head_dim: int = 64
    vocab_size: int = 4096
    context: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Optimisation settings of one model.

    Training ends after ``steps`` or ``minutes``, whichever comes first; the learning rate falls linearly to zero with
    the share of that budget already spent.
    """

    steps: int
    minutes: float
    learning_rate: float
    weight_decay: float
    dropout: float
    batch_rows: int
    warmup_steps: int = 100
    eval_every: int = 250


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that differs between the real model and the smoke test."""

    teacher: Shape
    student: Shape
    teacher_batch: int
    student_batch: int
    generate_batch: int
    label_rows: int
    soft_labels: int
    ending_rows: int
    documents: int | None = None


FULL = Recipe(
    teacher=Shape(hidden_size=640, num_layers=10, num_heads=10, num_kv_heads=5, ffn_size=1728),
    student=Shape(hidden_size=256, num_layers=8, num_heads=4, num_kv_heads=2, ffn_size=768),
    teacher_batch=32,
    student_batch=64,
    generate_batch=4096,
    label_rows=64,
    soft_labels=128,
    ending_rows=256,
)
TINY = Recipe(
    teacher=Shape(hidden_size=128, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=256, context=64),
    student=Shape(hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=128, head_dim=32, context=64),
    teacher_batch=4,
    student_batch=4,
    generate_batch=8,
    label_rows=8,
    soft_labels=16,
    ending_rows=16,
    documents=60,
)


# --------------------------------------------------------------------------------------------------------------------
# Corpus

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


def prepare(corpus: Path, work: Path, recipe: Recipe, seed: int) -> None:
    """Write ``tokenizer.json`` and ``tokens.npz`` (both splits) to ``work``."""
    documents = read_documents(corpus)[: recipe.documents]
    train, valid = hold_out(documents, share=0.015, seed=seed)
    tokenizer = train_tokenizer([document.text for document in train], recipe.student.vocab_size)
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


# --------------------------------------------------------------------------------------------------------------------
# Model (module names give the Hugging Face tensor names)


class Norm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x[..., D]."""
        scaled = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding to x[B, H, T, K]; the halves of K are the two coordinates."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_size = shape.num_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated q[B, H, T, K], rotated k[B, G, T, K] and v[B, G, T, K]."""
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend within x[B, T, D]."""
        q, k, v = self.project(x, cos, sin)
        group = self.shape.num_heads // self.shape.num_kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, position: int) -> Tensor:
        """Attend from one new token x[B, 1, D] and write it to cache[2, B, G, T, K]."""
        q, k, v = self.project(x, cos, sin)
        cache[0, :, :, position], cache[1, :, :, position] = k[:, :, 0], v[:, :, 0]
        keys, values = cache[:, :, :, : position + 1]
        mixed = F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU feed-forward network."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.ffn_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.ffn_size, bias=False)
        self.down_proj = nn.Linear(shape.ffn_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x[B, T, D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer with pre-norms and dropout on both residual branches."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.mlp = FeedForward(shape)
        self.dropout = dropout

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Transform x[B, T, D]; ``attend`` is the attention over normed input."""
        x = x + F.dropout(attend(self.input_layernorm(x)), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), self.dropout, self.training)


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.num_layers))
        self.norm = Norm(shape.hidden_size, shape.norm_eps)


class Llama(nn.Module):
    """A Llama language model with a tied output layer."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        self.model = Decoder(shape, dropout)
        frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.context), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * shape.num_layers) if into_residual else 0.02)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the normed output x[B, T, D] of the last layer for tokens[B, T]."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = F.dropout(self.model.embed_tokens(tokens), self.dropout, self.training)
        for layer in self.model.layers:
            x = layer(x, lambda h, attention=layer.self_attn: attention(h, cos, sin))
        normed: Tensor = self.model.norm(x)
        return normed

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits[B, T, V] for tokens[B, T]."""
        return F.linear(self.hidden(tokens), self.model.embed_tokens.weight)

    def step(self, tokens: Tensor, caches: Sequence[Tensor], position: int) -> Tensor:
        """Return logits[B, V] after the new tokens[B] at ``position``, extending ``caches`` (one per layer)."""
        cos, sin = self.cos[position : position + 1], self.sin[position : position + 1]
        x = self.model.embed_tokens(tokens[:, None])
        for layer, cache in zip(self.model.layers, caches, strict=True):
            x = layer(x, lambda h, a=layer.self_attn, c=cache: a.step(h, cos, sin, c, position))
        return F.linear(self.model.norm(x)[:, 0], self.model.embed_tokens.weight)


@torch.no_grad()
def generate(model: Llama, prompts: Sequence[Sequence[int]], top_k: int, temperature: float) -> npt.NDArray[np.uint16]:
    """Sample rows[B, context + 1], each continuing its prompt; the next story follows a finished one."""
    device = model.cos.device
    width = model.shape.context + 1
    forced = torch.full((len(prompts), width), -1, dtype=torch.long)
    for row, prompt in zip(forced, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    rows = forced.to(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sizes = (2, len(prompts), model.shape.num_kv_heads, model.shape.context, model.shape.head_dim)
    caches = [torch.empty(sizes, dtype=dtype, device=device) for _ in model.model.layers]
    # No cuDNN: it would plan anew for every cache length.
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(backends), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for position in range(width - 1):
            logits = model.step(rows[:, position], caches, position)
            values, ids = (logits.float() / temperature).topk(top_k)
            picked = ids.gather(1, values.softmax(-1).multinomial(1))[:, 0]
            rows[:, position + 1] = torch.where(rows[:, position + 1] < 0, picked, rows[:, position + 1])
    return rows.cpu().numpy().astype(np.uint16)


# --------------------------------------------------------------------------------------------------------------------
# Training


def orthogonalise(updates: Tensor) -> Tensor:
    """Bring the singular values of updates[N, rows, columns] near one by five Newton-Schulz steps.

    Source: Keller Jordan, Muon; the coefficients are his.
    """
    x = updates.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix, with decoupled weight decay.

    Updates are scaled to the root mean square of AdamW's, so that one learning rate serves both (arXiv:2502.16982).
    Matrices of one shape are handled together.
    """

    def __init__(
        self, matrices: Sequence[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        groups = [{"params": [m for m in matrices if tuple(m.shape) == shape]} for shape in shapes]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices from their gradients."""
        for group in self.param_groups:
            matrices = group["params"]
            gradients = torch.stack([matrix.grad for matrix in matrices])
            state = self.state[matrices[0]]
            if not state:
                state["momentum"] = torch.zeros_like(gradients)
            buffer = state["momentum"]
            buffer.lerp_(gradients, 1 - group["momentum"])
            updates = orthogonalise(gradients.lerp(buffer, group["momentum"])).float()
            scale = 0.2 * math.sqrt(max(updates.shape[1:]))
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, list(updates.unbind()), alpha=-group["lr"] * scale)


@torch.no_grad()
def validation_loss(model: nn.Module, rows: npt.NDArray[np.int64], device: torch.device) -> float:
    """Return the mean negative log-likelihood per token, in nats."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for chunk in torch.from_numpy(rows).split(16):
        batch = chunk.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch[:, :-1].clamp_min(0))
        targets = batch[:, 1:].flatten()
        total += F.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORE_ID, reduction="sum").item()
        count += int((targets != IGNORE_ID).sum())
    model.train(was_training)
    return total / count


def fit(
    name: str,
    model: Llama,
    loss_of: Callable[..., Tensor],
    batches: Iterator[tuple[Tensor, ...]],
    schedule: Schedule,
    valid: npt.NDArray[np.int64],
    device: torch.device,
) -> None:
    """Train ``model`` in place and leave it with the weights of the lowest validation loss.

    ``loss_of(model, *batch)`` gives the training loss of a batch.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    embedding = model.model.embed_tokens.weight
    rate = schedule.learning_rate
    muon = Muon(matrices, rate, schedule.weight_decay)
    adam = torch.optim.AdamW(
        [{"params": [embedding], "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    groups = muon.param_groups + adam.param_groups
    compiled = torch.compile(loss_of) if device.type == "cuda" else loss_of
    model.train()
    best_loss, best_state = math.inf, {}
    running = torch.zeros((), device=device)
    begin = time.monotonic()
    step, done = 0, False
    while not done:
        elapsed = (time.monotonic() - begin) / 60
        spent = max(step / schedule.steps, elapsed / schedule.minutes)
        for group in groups:
            group["lr"] = rate * min(1.0, (step + 1) / schedule.warmup_steps) * max(0.0, 1 - spent)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = compiled(model, *next(batches))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        running.lerp_(loss.detach().float(), 1 / min(step + 1, 50))
        step += 1
        done = step >= schedule.steps or elapsed >= schedule.minutes
        if step % schedule.eval_every == 0 or done:
            current = validation_loss(model, valid, device)
            minutes = (time.monotonic() - begin) / 60
            print(
                f"{name} step={step} minutes={minutes:.2f} train={running.item():.4f} valid={current:.4f}", flush=True
            )
            if current < best_loss:
                best_loss = current
                best_state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    model.eval()
    num_tokens = step * schedule.batch_rows * model.shape.context
    print(f"{name} done: steps={step} tokens={num_tokens} best_valid={best_loss:.4f}", flush=True)


def hard_loss(model: nn.Module, rows: Tensor) -> Tensor:
    """Cross-entropy of the next token over rows[B, T + 1]."""
    return F.cross_entropy(model(rows[:, :-1]).float().flatten(0, 1), rows[:, 1:].flatten())


def distillation_loss(model: nn.Module, rows: Tensor, ids: Tensor, probs: Tensor, hard_share: Tensor) -> Tensor:
    """Mix of cross-entropy with the teachers' distribution and with the next token itself.

    *Shapes*: rows[B, T + 1], ids[B, T, N] and probs[B, T, N] the N likeliest tokens, hard_share[B] in [0, 1].
    The other tokens count as one more class.
    """
    log_probs = model(rows[:, :-1]).float().log_softmax(-1)
    likely, log_likely = probs.float(), log_probs.gather(-1, ids.long())
    rest, log_rest = 1 - likely.sum(-1), torch.log((1 - log_likely.exp().sum(-1)).clamp_min(1e-5))
    soft = -(likely * log_likely).sum(-1) - rest.clamp_min(0) * log_rest
    hard = -log_probs.gather(-1, rows[:, 1:, None])[..., 0]
    share = hard_share[:, None]
    return ((1 - share) * soft + share * hard).mean()


def teacher_batches(
    split: Split, context: int, batch_rows: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor]]:
    """Yield batches of freshly cut rows, epoch after epoch."""
    epoch = 0
    while True:
        rows = torch.from_numpy(epoch_rows(split, context, np.random.default_rng([seed, epoch])).astype(np.int32)).to(
            device
        )
        for batch in rows.split(batch_rows):
            if len(batch) == batch_rows:
                yield (batch.long(),)
        epoch += 1


def train_teacher(work: Path, shape: Shape, schedule: Schedule, seed: int, path: Path, device: torch.device) -> None:
    """Train one teacher on the next-token loss and save it in bfloat16."""
    torch.manual_seed(seed)
    model = Llama(shape, schedule.dropout).to(device)
    print(f"teacher parameters={sum(p.numel() for p in model.parameters())}")
    batches = teacher_batches(load_split(work, "train"), shape.context, schedule.batch_rows, seed, device)
    valid = validation_rows(load_split(work, "valid"), shape.context)
    fit(path.stem, model, hard_loss, batches, schedule, valid, device)
    save_weights(model, path)


def save_weights(model: nn.Module, path: Path) -> None:
    """Save the parameters in bfloat16."""
    tensors = {name: value.detach().bfloat16().cpu().contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def load_model(path: Path, shape: Shape, device: torch.device) -> Llama:
    """Load a model saved by :func:`save_weights`, in float32 and ready for inference."""
    model = Llama(shape)
    model.load_state_dict(safetensors.torch.load_file(path))
    return model.to(device).eval()


def generate_stories(
    work: Path, recipe: Recipe, teachers: Sequence[Llama], num_batches: int, minutes: float, seed: int
) -> None:
    """Let the teachers in turn continue openings of training stories, and write ``generated.npy``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    split = load_split(work, "train")
    chance = np.where(split.weights >= WEIGHTS["bedtime"], split.weights, 0.0).astype(np.float64)
    chance = chance / chance.sum() if chance.any() else np.full(len(chance), 1 / len(chance))
    rows: list[npt.NDArray[np.uint16]] = []
    first_begin = time.monotonic()
    for index in range(num_batches):
        begin = time.monotonic()
        if begin - first_begin > 60 * minutes:
            break
        picked = rng.choice(len(chance), recipe.generate_batch, p=chance)
        lengths = rng.integers(1, 24, recipe.generate_batch)
        prompts = [split.tokens[split.bounds[i] :][:n].tolist() for i, n in zip(picked, lengths, strict=True)]
        rows.append(generate(teachers[index % len(teachers)], prompts, top_k=100, temperature=0.95))
        print(f"generate batch={index} tokens={rows[-1].size} seconds={time.monotonic() - begin:.1f}", flush=True)
    np.save(work / "generated.npy", np.concatenate(rows))


@torch.no_grad()
def soft_labels(teachers: Sequence[Llama], rows: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return ids[R, T, N] (int16) and probs[R, T, N] (float16): the top N of the teachers' mean distribution."""
    all_ids, all_probs = [], []
    for batch in rows.split(recipe.label_rows):
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=rows.device.type == "cuda"):
            mean = torch.stack([teacher(batch[:, :-1].long()).float().softmax(-1) for teacher in teachers]).mean(0)
        probs, ids = mean.topk(recipe.soft_labels)
        all_ids.append(ids.short())
        all_probs.append(probs.half())
    return torch.cat(all_ids), torch.cat(all_probs)


def student_batches(
    tensors: Sequence[Tensor], batch_rows: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """Yield shuffled batches of (rows, ids, probs, hard_share), pass after pass."""
    generator = torch.Generator(device).manual_seed(seed)
    while True:
        for picked in torch.randperm(len(tensors[0]), generator=generator, device=device).split(batch_rows):
            if len(picked) == batch_rows:
                rows, *labels = (tensor[picked] for tensor in tensors)
                yield (rows.long(), *labels)


def train_student(
    work: Path,
    recipe: Recipe,
    teachers: Sequence[Llama],
    schedule: Schedule,
    hard_share: float,
    seed: int,
    device: torch.device,
) -> None:
    """Distil the teachers into the small model over two cuts of the real stories and all generated ones."""
    torch.manual_seed(seed)
    split = load_split(work, "train")
    context = recipe.student.context
    real = np.concatenate([epoch_rows(split, context, np.random.default_rng([seed, 1000 + cut])) for cut in range(2)])
    written = np.load(work / "generated.npy")
    rows = torch.from_numpy(np.concatenate([real, written]).astype(np.int16)).to(device)
    share = torch.cat([torch.full((len(real),), hard_share), torch.zeros(len(written))]).to(device)
    begin = time.monotonic()
    ids, probs = soft_labels(teachers, rows, recipe)
    print(f"labels rows={len(rows)} real={len(real)} seconds={time.monotonic() - begin:.1f}", flush=True)
    valid = validation_rows(load_split(work, "valid"), context)
    for index, teacher in enumerate(teachers):
        print(f"teacher={index} valid={validation_loss(teacher, valid, device):.4f}", flush=True)
    model = Llama(recipe.student, schedule.dropout).to(device)
    print(f"student parameters={sum(p.numel() for p in model.parameters())}")
    batches = student_batches((rows, ids, probs, share), schedule.batch_rows, seed, device)
    fit("student", model, distillation_loss, batches, schedule, valid, device)
    save_weights(model, work / "student.safetensors")


def favour_endings(work: Path, shape: Shape, factor: float, num_rows: int, seed: int, device: torch.device) -> None:
    """Refit the output row of </s> so that stories end about ``factor`` times as readily as in the books.

    Books hold long tales, so </s> is rare and top-p sampling would all but never draw it. The row is refitted by
    logistic regression on the frozen model, with true ends counted ``factor`` times; the input embedding it is tied to
    is never read, because nothing follows </s>. Writes ``storyteller.safetensors``.
    """
    model = load_model(work / "student.safetensors", shape, device)
    rows = epoch_rows(load_split(work, "train"), shape.context, np.random.default_rng([seed, 2000]))
    rows = rows[(rows[:, 1:] == EOS_ID).any(1)][:num_rows]
    embedding = model.model.embed_tokens.weight.detach()
    features, others, ends = [], [], []
    with torch.no_grad():
        for batch in torch.from_numpy(rows.astype(np.int64)).split(8):
            tokens = batch.to(device)
            x = model.hidden(tokens[:, :-1]).flatten(0, 1)
            logits = x @ embedding.T
            logits[:, EOS_ID] = -math.inf
            features.append(x)
            others.append(logits.logsumexp(-1))
            ends.append((tokens[:, 1:] == EOS_ID).flatten().float())
    x, rest, end = torch.cat(features), torch.cat(others), torch.cat(ends)
    shift = torch.zeros(shape.hidden_size, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([shift], max_iter=50, line_search_fn="strong_wolfe")
    weight = torch.tensor(factor, device=device)

    def loss_of() -> Tensor:
        optimizer.zero_grad()
        odds = x @ (embedding[EOS_ID] + shift) - rest
        loss = F.binary_cross_entropy_with_logits(odds, end, pos_weight=weight) + 0.01 * shift.square().sum()
        loss.backward()
        return loss

    optimizer.step(loss_of)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        before, after = ((x @ row - rest).sigmoid() for row in (embedding[EOS_ID], embedding[EOS_ID] + shift))
        for name, chance in (("before", before), ("after", after)):
            true, false = chance[end > 0].mean().item(), chance[end == 0].mean().item()
            print(f"endings {name}: chance of </s> at ends={true:.4f} elsewhere={false:.6f}", flush=True)
        model.model.embed_tokens.weight[EOS_ID] += shift
    save_weights(model, work / "storyteller.safetensors")


# --------------------------------------------------------------------------------------------------------------------
# Export


def export(work: Path, out: Path, shape: Shape, device: torch.device) -> None:
    """Write the Hugging Face folder, then print the file's validation loss and a few samples."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").write_bytes((work / "storyteller.safetensors").read_bytes())
    (out / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    token_ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        **token_ids,
    }
    generation = {
        **token_ids,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "repetition_penalty": 1.1,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context,
    }
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    model = load_model(out / "model.safetensors", shape, device)
    loss = validation_loss(model, validation_rows(load_split(work, "valid"), shape.context), device)
    print(f"export valid={loss:.4f} bytes={(out / 'model.safetensors').stat().st_size}")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    torch.manual_seed(0)
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    for row in generate(model, prompts, top_k=40, temperature=0.8):
        story = row[1:].tolist()
        story = story[: story.index(EOS_ID) + 1] if EOS_ID in story else story
        print(f"--- tokens={len(story)}\n{tokenizer.decode(story, skip_special_tokens=False)[:1500]}", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="stories.txt.xz; needed by the first stage only")
    parser.add_argument("--work", type=Path, default=Path("storyteller-work"), help="intermediate results")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated; default: all")
    parser.add_argument("--teachers", type=int, default=2, help="number of teachers in the ensemble")
    parser.add_argument("--teacher-steps", type=int, default=3600)
    parser.add_argument("--teacher-minutes", type=float, default=math.inf)
    parser.add_argument("--teacher-dropout", type=float, default=0.3)
    parser.add_argument("--teacher-weight-decay", type=float, default=1.0)
    parser.add_argument("--generate-batches", type=int, default=2)
    parser.add_argument("--generate-minutes", type=float, default=math.inf, help="start no batch after this")
    parser.add_argument("--student-steps", type=int, default=11000)
    parser.add_argument("--student-minutes", type=float, default=math.inf)
    parser.add_argument("--hard-share", type=float, default=0.1, help="weight of the hard labels on real stories")
    parser.add_argument("--end-factor", type=float, default=10.0, help="how much readier stories end than in the books")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="smoke test: toy models, 60 documents, few steps")
    return parser.parse_args()


def main() -> None:
    """Run the requested stages."""
    args = parse_arguments()
    stages = args.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        raise SystemExit(f"[train] unknown stage: got={sorted(unknown)}, expected={STAGES}")
    recipe = TINY if args.tiny else FULL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    if "prepare" in stages and not (work / "tokens.npz").exists():
        prepare(args.corpus, work, recipe, args.seed)

    paths = [work / f"teacher-{index}.safetensors" for index in range(args.teachers)]
    if "teacher" in stages:
        schedule = Schedule(
            steps=args.teacher_steps,
            minutes=args.teacher_minutes,
            learning_rate=2.5e-3,
            weight_decay=args.teacher_weight_decay,
            dropout=args.teacher_dropout,
            batch_rows=recipe.teacher_batch,
        )
        for index, path in enumerate(paths):
            if not path.exists():
                train_teacher(work, recipe.teacher, schedule, args.seed + index, path, device)

    if "generate" in stages and not (work / "generated.npy").exists():
        teachers = [load_model(path, recipe.teacher, device) for path in paths]
        generate_stories(work, recipe, teachers, args.generate_batches, args.generate_minutes, args.seed)

    if "student" in stages and not (work / "student.safetensors").exists():
        teachers = [load_model(path, recipe.teacher, device) for path in paths]
        schedule = Schedule(
            steps=args.student_steps,
            minutes=args.student_minutes,
            learning_rate=4e-3,
            weight_decay=0.1,
            dropout=0.0,
            batch_rows=recipe.student_batch,
            eval_every=500,
        )
        train_student(work, recipe, teachers, schedule, args.hard_share, args.seed, device)

    if "endings" in stages and not (work / "storyteller.safetensors").exists():
        favour_endings(work, recipe.student, args.end_factor, recipe.ending_rows, args.seed, device)

    if "export" in stages:
        export(work, args.out, recipe.student, device)


if __name__ == "__main__":
    main()
