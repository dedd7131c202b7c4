"""What is shown and can be done while weights are read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import tiny
from quire import LLM, _core, loading
from quire.arguments import EngineArgs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tiny.make(tmp_path / "model"))


def test_a_terminal_is_shown_a_bar_that_ends_full(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(loading, "_QUIET_SECONDS", 0.0)
    LLM(folder).close()
    assert "Loading weights: 100%" in terminal.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_quick_models_and_files_are_shown_nothing(
    folder: str, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", errors)
    if not is_terminal:
        monkeypatch.setattr(loading, "_QUIET_SECONDS", 0.0)
    LLM(folder).close()
    assert "Loading" not in errors.getvalue()


def test_ctrl_c_ends_the_loading(folder: str) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _core.Engine.create(EngineArgs(model=folder).core_config(), interrupt)
