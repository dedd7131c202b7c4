"""LLM: prompts in, outputs in the same order."""

from __future__ import annotations

import difflib
import json
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from quire import engine_log
from quire.arguments import EngineArgs
from quire.engine_view import EngineView
from quire.generation import EngineHandle, RequestStream, run_batch
from quire.loading import LoadBar
from quire.outputs import RequestOutput
from quire.prompts import encode_prompts, read_prompts, read_sampling
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    from quire import _core

logger = logging.getLogger("quire")

# In a forked child there is no engine thread, and to end an engine would be to wait for it: they are kept instead.
_engines_of_the_parent: list[_core.Engine] = []


class LLM:
    """A model ready to generate text, with the constructor and the methods of vLLM's LLM.

    Args:
        model: folder in Hugging Face layout (config.json, weights, tokenizer files), or the name of a model on the
            Hugging Face hub, as in "org/name", which is fetched once. Without it the built-in storyteller runs, a
            small model that writes little stories.
        tokenizer: folder of the tokenizer, if it is not the model's.
        tokenizer_mode: "auto", or "slow" to prefer tokenizer.model (SentencePiece).
        trust_remote_code: accepted, without effect; code from a model folder is never run.
        tensor_parallel_size: GPUs, from `device` on, that compute the model together, each a share of every layer. On
            the CPU, for tests, ranks that divide its threads.
        revision: branch, tag or commit of a model on the hub.
        dtype: type of weights and KV cache: "auto", "float32" ("float"), "bfloat16", "float16" ("half").
        seed: seed of the requests that bring none.
        gpu_memory_utilization: share of a GPU's memory that may be in use, other programs included; what weights leave
            of it becomes the KV cache.
        enforce_eager: record no graphs of steps on a GPU.
        **kwargs: any other field of EngineArgs: device ("auto", "cpu", "cuda", "cuda:1", "hip"), max_model_len (a
            number, or "auto": as long as the KV cache allows), max_num_seqs, enable_prefix_caching, deterministic,
            num_threads, kv_cache_memory_bytes, skip_tokenizer_init ... and generation_config, which says whose
            generation_config.json calls without sampling parameters follow: "auto" (the model's), "vllm" (nobody's:
            SamplingParams()), or a folder. End-of-text tokens are always the model's.

    The other arguments are checked, and accepted where they can be without effect.

    Raises:
        FileNotFoundError: no such folder, no such model on the hub, or a file is missing in it.
        PermissionError, ConnectionError, OSError: the model cannot be fetched; one line says what to do.
        ValueError: a value or a file is wrong; the message names field and value.
        NotImplementedError: something is not offered, an unknown architecture for instance, or there is no such device.
        MemoryError: weights and KV cache do not fit.

    Thread safety: all methods, close() excepted. `with LLM() as llm:` gives all memory back at the end, as close()
    does. An LLM cannot be used in a forked child process.
    """

    def __init__(
        self,
        model: str | None = None,
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        swap_space: float = 4,
        enforce_eager: bool = False,
        max_context_len_to_capture: int = 8192,
        disable_custom_all_reduce: bool = True,
        **kwargs: Any,
    ) -> None:
        self._engine: EngineHandle | None = None
        _refuse_unknown(kwargs)
        kwargs.setdefault("disable_log_stats", True)
        arguments = EngineArgs(
            model=model,
            tokenizer=tokenizer,
            tokenizer_mode=tokenizer_mode,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            quantization=quantization,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            seed=seed,
            gpu_memory_utilization=gpu_memory_utilization,
            swap_space=swap_space,
            enforce_eager=enforce_eager,
            max_context_len_to_capture=max_context_len_to_capture,
            disable_custom_all_reduce=disable_custom_all_reduce,
            **kwargs,
        )
        self._open(arguments)

    @classmethod
    def from_engine_args(cls, arguments: EngineArgs) -> LLM:
        """Build one from parsed flags."""
        return cls(**{entry.name: getattr(arguments, entry.name) for entry in fields(arguments)})

    def _open(self, arguments: EngineArgs) -> None:
        from quire import _core

        config = arguments.core_config()
        self.arguments = arguments
        self._tokenizer: Any = None
        # The engine checks all files of the folder before it reads a weight, so its errors come first.
        bar = LoadBar()
        try:
            core = _core.Engine.create(config, bar)
        except NotImplementedError as error:
            if _brings_code(config.model):
                raise NotImplementedError(f"{error} {_REMOTE_CODE}") from None
            raise
        finally:
            bar.close()
            engine_log.forward()
        self._process = os.getpid()
        self._engine = EngineHandle(core, has_text=not arguments.skip_tokenizer_init)
        # Runs when nobody holds this object any more, and at the latest before the interpreter is taken apart.
        self._end = weakref.finalize(self, _end_engine, core, self._process)
        if not arguments.skip_tokenizer_init:
            from quire.tokenizer import load_tokenizer

            try:
                self._tokenizer = load_tokenizer(arguments.tokenizer_folder(), arguments.tokenizer_mode)
            except BaseException:
                self.close()
                raise
        self.llm_engine = EngineView(core, self._tokenizer)
        on_gpu = not core.config.device.startswith("cpu")
        ignored = arguments.without_effect(on_gpu)
        if ignored:
            logger.info("these arguments have no effect on the %s: %s", "GPU" if on_gpu else "CPU", ", ".join(ignored))

    def _running(self) -> EngineHandle:
        if self._engine is None:
            raise RuntimeError("This LLM is closed.")
        if self._process != os.getpid():
            raise RuntimeError("This LLM belongs to the parent process; create one in this process.")
        return self._engine

    def get_tokenizer(self) -> Any:
        """The tokenizer, None with skip_tokenizer_init."""
        return self._tokenizer

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Encode prompts with another tokenizer: anything with encode(text) -> list of ids.

        Outputs are still decoded with the vocabulary of the model's own tokenizer.
        """
        self._tokenizer = tokenizer
        self.llm_engine.tokenizer = tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What generation_config recommends; SamplingParams() where it says nothing. Calls without parameters use it.

        Raises: ValueError naming file and field that is not usable.
        """
        return SamplingParams(**self.arguments.default_sampling())

    def _sampling(self, sampling_params: Any, num_prompts: int) -> list[SamplingParams]:
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        return read_sampling(sampling_params, num_prompts)

    def generate(
        self,
        prompts: Any = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        prompt_token_ids: Sequence[Sequence[int]] | None = None,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: Any = None,
        multi_modal_data: Any = None,
    ) -> list[RequestOutput]:
        """Complete prompts, as many at a time as fit.

        Args:
            prompts: a string, a dict {"prompt": text} or {"prompt_token_ids": ids}, a list of token ids, or a list
                of these.
            sampling_params: one for all prompts or a list with one for each; None: get_default_sampling_params().
            prompt_token_ids: one list of ids per prompt; with `prompts` too, the ids count and the text is shown in
                the output.
            use_tqdm: show a progress bar; a function like tqdm is called to make it.

        Returns: one output per prompt, in order. A request that fails while it runs does not lose the others: its
        finish_reason is "error", its `error` says why, and a warning is logged.

        Raises: ValueError that names the prompt, or field and value of the parameters; NotImplementedError for what
        is not offered. Both before any output is made, and the LLM stays usable. KeyboardInterrupt cancels all
        requests of the call.
        """
        if lora_request is not None:
            raise NotImplementedError("lora_request is not offered; merge the adapter into the weights.")
        if multi_modal_data is not None:
            raise NotImplementedError("multi_modal_data is not offered; use text prompts.")
        engine = self._running()
        items = read_prompts(prompts, prompt_token_ids)
        sampling = self._sampling(sampling_params, len(items))
        encode_prompts(items, None if self._tokenizer is None else self._tokenizer.encode)
        return run_batch(engine, items, sampling, use_tqdm)

    def stream(self, prompt: Any, sampling_params: SamplingParams | None = None) -> RequestStream:
        """Complete one prompt and iterate over its outputs as they come.

        Each output holds what is new since the one before, so that

            for output in llm.stream("Once upon a time"):
                print(output.outputs[0].text, end="", flush=True)

        prints the text while it grows (n=1; with n > 1 each of `outputs` has its `index`). Leaving the loop cancels
        the request.

        Raises: as generate(), at the call.
        """
        engine = self._running()
        items = read_prompts(prompt, None)
        if len(items) != 1:
            raise ValueError(f"stream() takes one prompt, got {len(items)}; generate() takes many.")
        encode_prompts(items, None if self._tokenizer is None else self._tokenizer.encode)
        return RequestStream(engine, items[0], self._sampling(sampling_params, 1)[0])

    def chat(
        self,
        messages: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations.

        Args:
            messages: a list of {"role": ..., "content": ...}, or a list of such lists.
            chat_template: jinja2 text to use instead of the model's own template.
            add_generation_prompt: end with the words that begin an answer.
            tools: functions the model may ask for, for templates that know them.
            chat_template_kwargs: further variables of the template.

        Returns, raises and the other arguments: as generate(); ValueError too if the model has no chat template.
        """
        self._running()
        conversations = [messages] if messages and isinstance(messages[0], dict) else list(messages)
        template = {
            "chat_template": chat_template,
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            **(chat_template_kwargs or {}),
        }
        prompts = [self._render(conversation, **template) for conversation in conversations]
        sampling = self._chat_sampling(self._sampling(sampling_params, len(prompts)), chat_template)
        return self.generate(prompts, sampling, use_tqdm=use_tqdm, lora_request=lora_request)

    def stream_chat(
        self,
        messages: list[dict[str, Any]],
        sampling_params: SamplingParams | None = None,
        chat_template: str | None = None,
    ) -> RequestStream:
        """Answer one conversation, as stream() does for a prompt."""
        self._running()
        prompt = self._render(messages, chat_template=chat_template, add_generation_prompt=True)
        return self.stream(prompt, self._chat_sampling(self._sampling(sampling_params, 1), chat_template)[0])

    def _chat_sampling(self, sampling: list[SamplingParams], chat_template: str | None) -> list[SamplingParams]:
        """The parameters, with what ends an answer in the model's own chat format."""
        if chat_template is not None or not hasattr(self._tokenizer, "chat_ends"):
            return sampling
        token_ids, texts = self._tokenizer.chat_ends()
        # Parameters that prompts share stay shared; what is none of ours is refused later, with its name.
        ended = {id(one): one.ended_by(token_ids, texts) for one in sampling if isinstance(one, SamplingParams)}
        return [ended.get(id(one), one) for one in sampling]

    def _render(self, messages: list[dict[str, Any]], **template: Any) -> dict[str, Any]:
        """Text and ids of a conversation. The template writes the special tokens itself, so encoding adds none."""
        if self._tokenizer is None:
            raise ValueError("chat needs a tokenizer, but the model was opened with skip_tokenizer_init=True.")
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, **template)
        return {"prompt": text, "prompt_token_ids": list(self._tokenizer.encode(text, add_special_tokens=False))}

    def close(self) -> None:
        """End all requests and give all memory back. A second call does nothing."""
        if self._engine is not None:
            self._engine = None
            self._end()
            engine_log.forward()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _end_engine(core: _core.Engine, process: int) -> None:
    if process == os.getpid():
        core.close()
    else:
        _engines_of_the_parent.append(core)


def _refuse_unknown(kwargs: dict[str, Any]) -> None:
    known = {entry.name for entry in fields(EngineArgs)}
    for name in kwargs:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise TypeError(f"LLM got an unknown argument {name!r}; the closest known one is {close!r}.")


def _brings_code(folder: str) -> bool:
    """Whether the model asks for its own Python code to be run."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "auto_map" in config


_REMOTE_CODE = (
    "The model brings Python code of its own, but quire never runs code from a model folder, whatever "
    "trust_remote_code says; `quire info --families` lists the architectures it knows."
)
