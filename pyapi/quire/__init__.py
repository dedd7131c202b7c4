"""quire: fast LLM inference from a Hugging Face folder.

    from quire import LLM, SamplingParams

    llm = LLM()  # the built-in storyteller, or LLM("path/to/model")
    for output in llm.generate(["Once upon a time"], SamplingParams(temperature=0.8, max_tokens=100)):
        print(output.prompt + output.outputs[0].text)

Everything is loaded at its first use, so that the import itself costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire._version import __version__ as __version__
    from quire.arguments import AsyncEngineArgs as AsyncEngineArgs
    from quire.arguments import EngineArgs as EngineArgs
    from quire.async_llm import AsyncLLM as AsyncLLM
    from quire.async_llm import AsyncLLMEngine as AsyncLLMEngine
    from quire.llm import LLM as LLM
    from quire.outputs import CompletionOutput as CompletionOutput
    from quire.outputs import Logprob as Logprob
    from quire.outputs import RequestMetrics as RequestMetrics
    from quire.outputs import RequestOutput as RequestOutput
    from quire.sampling import SamplingParams as SamplingParams

_HOME = {
    "AsyncEngineArgs": "arguments",
    "AsyncLLM": "async_llm",
    "AsyncLLMEngine": "async_llm",
    "CompletionOutput": "outputs",
    "EngineArgs": "arguments",
    "LLM": "llm",
    "Logprob": "outputs",
    "RequestMetrics": "outputs",
    "RequestOutput": "outputs",
    "SamplingParams": "sampling",
    "__version__": "_version",
}

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "CompletionOutput",
    "EngineArgs",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'quire' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"quire.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
