"""The committed stub of the extension module is the one its bindings give."""

import ast
import subprocess
import sys
from pathlib import Path

import quire
from quire import _core

stubgen = __import__("pytest").importorskip("nanobind.stubgen")


def committed() -> Path:
    return Path(quire.__file__).parent / "_core.pyi"


def normal_form(source: str) -> str:
    """Without comments and layout, which differ between versions of the generator."""
    return ast.dump(ast.parse(source), indent=1)


def test_stub_matches_the_module() -> None:
    generator = stubgen.StubGen(_core, quiet=True)
    generator.put(_core)
    assert normal_form(generator.get()) == normal_form(committed().read_text()), (
        "rebuild the stub: cmake --build BUILD --target quire_stub"
    )


def test_package_is_typed() -> None:
    assert (committed().parent / "py.typed").exists()


SAMPLE = """
from quire import LLM, CompletionOutput, RequestOutput, SamplingParams

params = SamplingParams(temperature=0.8, max_tokens=5, stop=["x"])
with LLM("folder", dtype="float32", max_model_len=100) as llm:
    outputs: list[RequestOutput] = llm.generate(["a"], params)
    completion: CompletionOutput = outputs[0].outputs[0]
    text: str = completion.text
    for piece in llm.stream("a", params):
        text += piece.outputs[0].text
    length: int = llm.llm_engine.model_config.max_model_len
"""


def test_user_code_passes_mypy_strict(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(SAMPLE)
    words = ["--strict", "--cache-dir", str(tmp_path / "cache"), "sample.py"]
    result = subprocess.run([sys.executable, "-m", "mypy", *words], cwd=tmp_path, capture_output=True, text=True)
    assert "Success" in result.stdout, result.stdout
