"""A second opinion on every model family: plain numpy, from the published modelling files, without a cache.

    config, tensors = read_folder(folder)
    logits = Reference(config, tensors).logits([1, 2, 3])  # [3, V]

It is slow and meant to be read. A family is a function (config, weights, token ids) -> logits; `FAMILIES` tells which
one an architecture name means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import gemma, gpt, latent, llama, moe, olmo
from .checkpoint import read_folder
from .pieces import Weights

__all__ = ["FAMILIES", "Reference", "read_folder"]

Family = Callable[[dict[str, Any], Weights, np.ndarray], np.ndarray]

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": llama.llama,
    "LLaMAForCausalLM": llama.llama,
    "InternLMForCausalLM": llama.llama,
    "AquilaModel": llama.llama,
    "AquilaForCausalLM": llama.llama,
    "XverseForCausalLM": llama.llama,
    "MistralForCausalLM": llama.mistral,
    "DeciLMForCausalLM": llama.deci,
    "BaiChuanForCausalLM": llama.baichuan,
    "BaichuanForCausalLM": llama.baichuan,
    "QWenLMHeadModel": llama.qwen,
    "Qwen2ForCausalLM": llama.qwen2,
    "Qwen2MoeForCausalLM": moe.qwen2_moe,
    "Qwen3ForCausalLM": llama.qwen3,
    "Qwen3MoeForCausalLM": moe.qwen3_moe,
    "DeepseekForCausalLM": moe.deepseek,
    "DeepseekV2ForCausalLM": latent.deepseek_v2,
    "DeepseekV3ForCausalLM": latent.deepseek_v3,
    "MixtralForCausalLM": moe.mixtral,
    "QuantMixtralForCausalLM": moe.mixtral,
    "DbrxForCausalLM": moe.dbrx,
    "ChatGLMModel": gpt.chatglm,
    "ChatGLMForConditionalGeneration": gpt.chatglm,
    "CohereForCausalLM": llama.cohere,
    "Cohere2ForCausalLM": llama.cohere2,
    "GemmaForCausalLM": gemma.gemma,
    "Gemma2ForCausalLM": gemma.gemma2,
    "Gemma3ForCausalLM": gemma.gemma3,
    "GptOssForCausalLM": moe.gpt_oss,
    "Glm4ForCausalLM": llama.glm4,
    "GraniteForCausalLM": llama.granite,
    "InternLM2ForCausalLM": llama.internlm2,
    "OrionForCausalLM": llama.orion,
    "StableLMEpochForCausalLM": llama.stablelm,
    "StableLmForCausalLM": llama.stablelm,
    "Starcoder2ForCausalLM": llama.starcoder2,
    "PhiForCausalLM": gpt.phi,
    "Phi3ForCausalLM": llama.phi3,
    "OLMoForCausalLM": olmo.olmo_original,
    "OlmoForCausalLM": olmo.olmo,
    "Olmo2ForCausalLM": olmo.olmo2,
    "FalconForCausalLM": gpt.falcon,
    "RWForCausalLM": gpt.falcon,
    "MPTForCausalLM": gpt.mpt,
    "MptForCausalLM": gpt.mpt,
    "BloomForCausalLM": gpt.bloom,
    "GPTNeoXForCausalLM": gpt.gpt_neox,
    "GPTJForCausalLM": gpt.gptj,
    "GPT2LMHeadModel": gpt.gpt2,
    "GPTBigCodeForCausalLM": gpt.gpt_bigcode,
    "JAISLMHeadModel": gpt.jais,
    "OPTForCausalLM": gpt.opt,
    "LlavaForConditionalGeneration": llama.llava,
}


class Reference:
    """A checkpoint, ready to compute in float64 (or another type)."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, np.ndarray], dtype: Any = np.float64) -> None:
        self.config = config
        self.family = FAMILIES[config["architectures"][0]]
        self.weights = Weights({name: tensor.astype(dtype) for name, tensor in tensors.items()})

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """[L, V]: the logits at every position."""
        return self.family(self.config, self.weights, np.asarray(ids))

    def greedy(self, prompt: Sequence[int], num_tokens: int, margin: float = 0.0) -> tuple[list[int], list[float]]:
        """The continuation by the best token, and by how much each led the second; ends early at a lead below
        `margin`."""
        ids, leads = list(prompt), []
        for _ in range(num_tokens):
            row = self.logits(ids)[-1]
            second, best = np.partition(row, -2)[-2:]
            leads.append(float(best - second))
            ids.append(int(row.argmax()))
            if leads[-1] <= margin:
                break
        return ids[len(prompt) :], leads
