"""The storyteller's network: a Llama whose module names give the Hugging Face tensor names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


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
