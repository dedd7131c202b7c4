"""The committed stub of the extension module is the one its bindings give."""

import ast
from pathlib import Path

import quire
from quire import _core

stubgen = __import__("pytest").importorskip("nanobind.stubgen")


def committed() -> Path:
    return Path(quire.__path__[0]) / "_core.pyi"


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
