"""What all Python tests share: tiny models, the folder of larger ones, the command line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import quire
import tiny

# A shell that starts the tests in the background has them ignore Ctrl-C, and every program they start as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent

# What is tested: the CPU, unless QUIRE_TEST_DEVICE is cuda or hip. Where no GPU backend is found device="auto" is the
# CPU, in the programs that tests start as well.
DEVICE = os.environ.get("QUIRE_TEST_DEVICE", "cpu")
if DEVICE.startswith("cpu"):
    os.environ["QUIRE_BACKEND_PATH"] = os.devnull

# No test looks for a model in the network or in somebody's cache; those of the hub start one of their own.
os.environ.update(HF_HUB_OFFLINE="1", HF_HOME="/nonexistent", HF_HUB_DISABLE_TELEMETRY="1")


@pytest.fixture(scope="session")
def device() -> str:
    """What device="auto" is in these tests: "cpu", "cuda" or "hip"."""
    return DEVICE


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and reference outputs: $QUIRE_SHARED, or ../shared beside the repository."""
    folder = Path(os.environ.get("QUIRE_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared folder with models; set QUIRE_SHARED")
    return folder


@pytest.fixture(scope="session")
def stories260k(shared: Path) -> Path:
    """A real model of 260 thousand parameters, with golden.json."""
    folder = shared / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("no models/stories260k in the shared folder")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a tokenizer and a chat template; do not write into it."""
    return tiny.make(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def llm(tiny_llama: Path) -> Iterator["quire.LLM"]:
    """The tiny Llama, open for all tests; what a test does to it must leave it usable."""
    with quire.LLM(str(tiny_llama), kv_cache_memory_bytes=4 << 20) as opened:
        yield opened


@pytest.fixture
def run_quire() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the command line: run_quire("generate", "text", input="...") -> returncode, stdout, stderr."""

    def run(*words: str, input: str | None = None, **options: Any) -> "subprocess.CompletedProcess[str]":
        stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(
            [sys.executable, "-m", "quire", *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            **stdin,
            **options,
        )

    return run
