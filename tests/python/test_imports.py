"""`import quire` costs next to nothing, and what it exports is what users of vLLM import."""

import json
import statistics
import subprocess
import sys

import quire

EXPORTS = {
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
}

HEAVY = [
    *("tokenizers", "sentencepiece", "jinja2", "tqdm", "numpy", "torch", "transformers", "huggingface_hub"),
    *("fastapi", "pydantic", "starlette", "uvicorn", "prometheus_client"),
]


def loaded_after(code: str) -> list[str]:
    """The modules that a fresh interpreter has loaded after the code."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return list(json.loads(output.splitlines()[-1]))


def median_seconds(code: str) -> float:
    """Median of what a fresh interpreter takes for the code, its own start left out."""
    program = f"import time; start = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in range(5)
    ]
    return statistics.median(float(run.stdout.splitlines()[-1]) for run in runs)


def test_exports_are_complete_and_each_exists() -> None:
    assert set(quire.__all__) == EXPORTS
    assert set(dir(quire)) >= EXPORTS
    for name in EXPORTS:
        assert getattr(quire, name) is not None


def test_unknown_attributes_are_attribute_errors() -> None:
    assert not hasattr(quire, "AsyncLLMEngineOfTomorrow")


def test_import_loads_nothing_heavy() -> None:
    modules = loaded_after("import quire")
    assert not [name for name in [*HEAVY, "quire._core", "quire.llm"] if name in modules]


def test_import_of_the_classes_loads_no_library() -> None:
    modules = loaded_after("from quire import LLM, AsyncLLM, SamplingParams, EngineArgs, RequestOutput")
    assert not [name for name in HEAVY if name in modules]


def test_import_takes_less_than_150_milliseconds() -> None:
    assert median_seconds("from quire import LLM, SamplingParams") < 0.15


def test_python_and_the_engine_have_one_version() -> None:
    from quire import _core

    assert quire.__version__ == _core.__version__
