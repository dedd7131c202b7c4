"""close() gives all memory back, and nothing is left behind at the end of a program."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tiny
from quire import LLM, SamplingParams

MEBIBYTE = 1 << 20


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 13 MiB of weights, so that one that is not given back is seen."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3}
    return tiny.make(tmp_path_factory.mktemp("models") / "medium", **sizes)


def open_use_close(model: Path) -> None:
    with LLM(str(model), kv_cache_memory_bytes=32 * MEBIBYTE) as llm:
        llm.generate(["a", "b"], SamplingParams(max_tokens=3), use_tqdm=False)
        stream = llm.stream("a", SamplingParams(max_tokens=None))
        next(stream)


def test_memory_comes_back_over_twenty_models_opened_and_closed(model: Path) -> None:
    for _ in range(3):
        open_use_close(model)
    before = resident_bytes()
    threads = threading.active_count()
    for _ in range(20):
        open_use_close(model)
    # One model left behind each time would be 20 * 45 MiB.
    assert resident_bytes() - before < 16 * MEBIBYTE
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/task").iterdir())) <= threads + 4


def test_constructors_that_fail_leave_nothing(model: Path, tmp_path: Path) -> None:
    broken = tiny.make(tmp_path / "broken", hidden_size=256, intermediate_size=1024)
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[:-100])
    tasks = len(list(Path("/proc/self/task").iterdir()))
    before = None
    for attempt in range(20):
        with pytest.raises(ValueError, match="safetensors"):
            LLM(str(broken))
        if attempt == 3:
            before = resident_bytes()
    assert before is not None
    assert resident_bytes() - before < 8 * MEBIBYTE
    assert len(list(Path("/proc/self/task").iterdir())) == tasks


PROGRAMS = {
    "an open model": "llm = quire.LLM(folder); llm.generate('a', use_tqdm=False)",
    "a stream half read": "llm = quire.LLM(folder); stream = llm.stream('a'); next(stream)",
    "a closed model": "llm = quire.LLM(folder); llm.close()",
    "a failed constructor": "try: quire.LLM(folder, max_model_len=10**6)\nexcept ValueError: pass",
    "a model that a library keeps": "import json; json.kept = quire.LLM(folder); next(json.kept.stream('a'))",
    "an output kept": "llm = quire.LLM(folder); kept = llm.generate('a', use_tqdm=False)",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_program_ends_without_a_word_about_leaks(program: str, tiny_llama: Path) -> None:
    code = f"import quire\nfolder = {str(tiny_llama)!r}\n{program}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
