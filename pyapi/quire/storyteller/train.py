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
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from corpus import BOS_ID, EOS_ID, IGNORE_ID, WEIGHTS, Split, epoch_rows, load_split, prepare, validation_rows
from network import Llama, Shape, generate
from tokenizers import Tokenizer
from torch import Tensor, nn

STAGES = ("prepare", "teacher", "generate", "student", "endings", "export")
PROMPTS = ("Once upon a time", "There was once a little", "The king said", "In a deep forest there lived an old")


# --------------------------------------------------------------------------------------------------------------------
# Settings


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
        "max_new_tokens": 700,
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
        prepare(args.corpus, work, recipe.student.vocab_size, recipe.documents, args.seed)

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
