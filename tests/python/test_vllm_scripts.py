"""Scripts as users of vLLM have them run with the import changed and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = {
    "offline inference": """
from vllm import LLM, SamplingParams

prompts = ["Hello, my name is", "The president of the United States is", "The capital of France is"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
llm = LLM(model=MODEL)
outputs = llm.generate(prompts, sampling_params)
for output in outputs:
    prompt = output.prompt
    generated_text = output.outputs[0].text
    print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")
""",
    "arguments of a GPU machine": """
from vllm import LLM, SamplingParams

llm = LLM(model=MODEL, tensor_parallel_size=1, gpu_memory_utilization=0.95, swap_space=0, enforce_eager=True,
          dtype="float16", max_model_len=128, trust_remote_code=True, max_num_seqs=16, disable_log_stats=False)
params = [SamplingParams(n=2, top_k=5, max_tokens=4, seed=index) for index in range(2)]
for output in llm.generate(["a", "b"], params, use_tqdm=False):
    print("Prompt:", output.request_id, [(one.index, one.finish_reason) for one in output.outputs])
print("Prompt:", llm.llm_engine.model_config.max_model_len)
""",
    "token ids and logprobs": """
from vllm import LLM, SamplingParams

llm = LLM(MODEL)
tokenizer = llm.get_tokenizer()
ids = [tokenizer.encode(text) for text in ("The night", "a")]
params = SamplingParams(temperature=0.0, max_tokens=2, logprobs=2, prompt_logprobs=1)
for output in llm.generate(prompt_token_ids=ids, sampling_params=params):
    best = [max(step.values(), key=lambda one: one.logprob).decoded_token for step in output.outputs[0].logprobs]
    print("Prompt:", tokenizer.decode(output.prompt_token_ids), best, output.prompt_logprobs[0] is None)
assert not llm.llm_engine.has_unfinished_requests()
print("Prompt: done")
""",
    "chat": """
from vllm import LLM, SamplingParams

llm = LLM(model=MODEL)
conversation = [{"role": "system", "content": "You are helpful"}, {"role": "user", "content": "Hello"}]
prompt = llm.get_tokenizer().apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
by_hand = llm.generate(prompt.removeprefix("<s>"), SamplingParams(temperature=0), use_tqdm=False)
by_chat = llm.chat(conversation, SamplingParams(temperature=0), use_tqdm=False)
assert by_hand[0].outputs[0].token_ids == by_chat[0].outputs[0].token_ids
for output in by_chat:
    print(f"Prompt: {output.prompt!r}, Generated text: {output.outputs[0].text!r}")
print("Prompt: done")
print("Prompt: done")
""",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_a_script_of_vllm_runs_with_the_import_changed(script: str, tiny_llama: Path) -> None:
    code = script.replace("from vllm import", "from quire import").replace("MODEL", repr(str(tiny_llama)))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Prompt:") == 3
