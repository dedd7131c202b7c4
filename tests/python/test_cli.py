"""The command line as people use it: streams, pipes, files, Ctrl-C."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import quire
import tiny
from quire import LLM, SamplingParams
from quire.cli import main
from quire.commands import console
from summary import tokens_made

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FIXED = ["--temperature", "0", "--max-tokens", "12", "--ignore-eos"]


@pytest.fixture
def model(tiny_llama: Path) -> list[str]:
    return ["--model", str(tiny_llama), "--kv-cache-memory-bytes", "1M"]


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slow enough, and with a context long enough, to be interrupted."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "max_position_embeddings": 16384}
    return tiny.make(tmp_path_factory.mktemp("models") / "slow", **sizes)


@pytest.fixture
def expected(llm: LLM) -> str:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    return llm.generate("The", params, use_tqdm=False)[0].outputs[0].text


def start(*words: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "quire", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **options,
    )


def test_version_is_printed_at_once_and_without_the_engine(run_quire: Run) -> None:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        result = run_quire("--version")
        times.append(time.perf_counter() - begin)
        assert (result.returncode, result.stdout) == (0, f"quire {quire.__version__}\n")
    assert statistics.median(times) < 0.3
    code = "import sys; from quire.cli import main; main(['--version']); print('quire._core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.endswith("False\n")


def test_the_installed_command_is_there() -> None:
    command = Path(sys.executable).parent / "quire"
    result = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert result.stdout == f"quire {quire.__version__}\n"


def test_help_shows_every_command_with_an_example(run_quire: Run) -> None:
    for words in (["--help"], ["-h"], ["help"]):
        result = run_quire(*words)
        assert result.returncode == 0
        for command in ("generate", "chat", "info", "serve", "bench"):
            assert f"quire {command} " in result.stdout
        for command in ("complete", "run-batch"):
            assert f"  {command} " in result.stdout
    nothing = run_quire()
    assert nothing.returncode == 2
    assert "usage: quire COMMAND" in nothing.stdout


def test_every_command_has_help_with_an_example_and_loads_no_engine() -> None:
    from quire.cli import COMMANDS

    for name in COMMANDS:
        code = (
            "import sys\nfrom quire.cli import main\n"
            f"try: main([*{name.split(' ')!r}, '--help'])\nexcept SystemExit as end: assert end.code == 0\n"
            "print([name for name in ('quire._core', 'fastapi', 'huggingface_hub', 'numpy') if name in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout.endswith("[]\n"), result.stderr
        assert f"usage: quire {name} " in result.stdout
        # An example is the command itself, in a line of its own.
        assert re.search(rf"^  (echo .* \| )?quire {name}\b", result.stdout, re.MULTILINE), name


def test_help_of_a_command_shows_its_flags_with_defaults(run_quire: Run) -> None:
    shown = run_quire("generate", "--help").stdout
    for flag in ("--model", "--temperature", "--top-p", "--max-tokens", "--stop", "--seed", "--n", "--dtype", "--file"):
        assert f"{flag} " in shown
    assert "(default: 1.0)" in shown
    assert "(default: 256)" in shown  # the command's own, not SamplingParams'
    assert "--gpu-memory-utilization X" in shown
    assert "--max-context-len-to-capture" not in shown  # accepted, but of no interest


def test_generate_prints_the_text_and_one_line_about_speed(run_quire: Run, model: list[str], expected: str) -> None:
    result = run_quire("generate", "The", *model, *FIXED)
    assert result.returncode == 0
    assert result.stdout == expected.removesuffix("\n") + "\n"
    speed = r"12 tokens, [\d.]+ tokens/s, first token after \d+ ms, loaded in [\d.]+ m?s\n"
    assert re.fullmatch(speed, result.stderr)
    assert run_quire("generate", "The", "--quiet", *model, *FIXED).stderr == ""


def test_the_prompt_may_come_from_stdin_or_a_file(
    run_quire: Run, model: list[str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text("The\n")
    for words, text in ([], "The\n"), (["-"], "The"), (["--file", str(tmp_path / "prompt.txt")], None):
        result = run_quire("generate", *words, *model, *FIXED, input=text)
        assert result.stdout.removesuffix("\n") == expected.removesuffix("\n"), result.stderr


def test_a_prompt_may_begin_with_dashes_after_two_of_them(run_quire: Run, model: list[str]) -> None:
    result = run_quire("generate", *model, *FIXED, "--echo", "--", "--max_tokens is")
    assert result.stdout.startswith("--max_tokens is")


def test_echo_prints_the_prompt_first(run_quire: Run, model: list[str], expected: str) -> None:
    assert run_quire("generate", "The", "--echo", *model, *FIXED).stdout.startswith("The" + expected[:5])


def test_underscores_in_flags_are_dashes(run_quire: Run, model: list[str]) -> None:
    words = ["--max_tokens=3", "--ignore_eos", "--top_k", "5"]
    assert tokens_made(run_quire("generate", "The", *model, *words).stderr) == 3


def test_without_a_seed_one_is_drawn_and_shown(run_quire: Run, model: list[str]) -> None:
    first = run_quire("generate", "The", *model, "--max-tokens", "20", "--ignore-eos")
    seed = re.search(r"; --seed (\d+) repeats it\n", first.stderr)
    assert seed
    again = run_quire("generate", "The", *model, "--max-tokens", "20", "--ignore-eos", "--seed", seed[1])
    assert again.stdout == first.stdout
    assert "repeats it" not in again.stderr


def test_several_completions_are_numbered(run_quire: Run, model: list[str]) -> None:
    result = run_quire("generate", "The", *model, "--n", "3", "--max-tokens", "4", "--ignore-eos", "--seed", "1")
    assert re.findall(r"^--- (\d) of 3$", result.stdout, re.MULTILINE) == ["1", "2", "3"]
    assert tokens_made(result.stderr) == 12


def test_json_holds_text_ids_and_logprobs(run_quire: Run, model: list[str], expected: str) -> None:
    result = run_quire("generate", "The", "--json", *model, *FIXED, "--logprobs", "1", "--prompt-logprobs", "0")
    (output,) = json.loads(result.stdout)["outputs"]
    assert (output["text"], output["finish_reason"]) == (expected, "length")
    assert len(output["token_ids"]) == len(output["logprobs"]) == 12
    assert json.loads(result.stdout)["prompt_logprobs"][0] is None


def test_impossible_logprobs_are_null_in_json(run_quire: Run, model: list[str]) -> None:
    result = run_quire("generate", "The", "--json", *model, "--top-k", "1", "--max-tokens", "2", "--logprobs", "3")
    assert "Infinity" not in result.stdout
    best = [one["logprob"] for one in json.loads(result.stdout)["outputs"][0]["logprobs"][0].values()]
    assert best == [0.0, None, None]


def test_sampling_defaults_come_from_the_model(run_quire: Run, tmp_path: Path) -> None:
    recommended = {"temperature": 0.0, "max_new_tokens": 7, "top_k": 0, "do_sample": True}
    folder = tiny.make(tmp_path / "model", generation_config=recommended)
    words = ["generate", "The", "--model", str(folder), "--ignore-eos"]
    assert tokens_made(run_quire(*words).stderr) == 7
    assert run_quire(*words).stdout == run_quire(*words).stdout
    assert tokens_made(run_quire(*words, "--max-tokens", "3").stderr) == 3


def test_the_text_appears_while_it_is_made(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(console, "write", pieces.append)
    assert main(["generate", "The", "--model", str(tiny_llama), "--max-tokens", "50", "--ignore-eos"]) == 0
    assert len(pieces) > 10
    assert tokens_made(capsys.readouterr().err) == 50


def test_a_closed_pipe_is_silent(model: list[str]) -> None:
    process = start("generate", "The", *model, "--max-tokens", "200", "--ignore-eos")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_ctrl_c_keeps_the_text_and_exits_with_130(slow_model: Path) -> None:
    process = start("generate", "The", "--model", str(slow_model), "--max-tokens", "none", "--ignore-eos")
    assert process.stdout is not None
    first = process.stdout.read(1)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - begin < 3.0
    assert process.returncode == 130
    assert first + out
    assert "Traceback" not in err


def test_text_that_the_terminal_cannot_show_does_not_end_the_program(run_quire: Run, model: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = ["--max-tokens", "30", "--ignore-eos", "--temperature", "3"]
    assert run_quire("generate", "The", *model, *words, env=environment).returncode == 0


def test_chat_answers_line_by_line(run_quire: Run, model: list[str]) -> None:
    words = ["chat", *model, "--system", "Be brief.", "--max-tokens", "5", "--ignore-eos", "--temperature", "0"]
    result = run_quire(*words, input="Hello\n/help\n/clear\n/nonsense\nHello\n/exit\nnever read\n")
    assert result.returncode == 0
    assert "/clear   forget the conversation" in result.stderr
    assert "unknown command /nonsense" in result.stderr
    once = run_quire(*words, input="Hello\n").stdout
    assert once
    assert result.stdout == once + once  # forgotten in between


def test_chat_remembers_what_was_said(run_quire: Run, model: list[str]) -> None:
    words = ["chat", *model, "--max-tokens", "5", "--ignore-eos", "--temperature", "0"]
    assert run_quire(*words, input="Hello\nHello\n").stdout != run_quire(*words, input="Hello\n/clear\nHello\n").stdout


def test_chat_goes_on_after_a_conversation_too_long(run_quire: Run, model: list[str]) -> None:
    words = ["chat", *model, "--max-tokens", "5", "--ignore-eos"]
    result = run_quire(*words, input="z" * 300 + "\nHello\n")
    assert result.returncode == 0
    assert "/clear makes room" in result.stderr
    assert result.stdout


def test_ctrl_c_in_chat_stops_the_answer_only(slow_model: Path) -> None:
    process = start("chat", "--model", str(slow_model), "--ignore-eos", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("Hello\n")
    process.stdin.flush()
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate("/exit\n", timeout=20)
    assert process.returncode == 0
    assert "stopped" in err


def test_info_shows_the_model_without_loading_it(run_quire: Run, tiny_llama: Path, device: str) -> None:
    result = run_quire("info", str(tiny_llama))
    assert result.returncode == 0
    for part in ("LlamaForCausalLM", "2 layers", "width 32", "4 heads", "256 tokens", "KV cache", device):
        assert part in result.stdout
    assert ("threads" in result.stdout) == (device == "cpu")
    assert ("swap space" in result.stdout) == (device != "cpu")
    facts = json.loads(run_quire("info", str(tiny_llama), "--json").stdout)
    assert facts["architecture"] == "LlamaForCausalLM"
    num_parameters = sum(tensor.size for tensor in load_file(tiny_llama / "model.safetensors").values())
    assert facts["num_parameters"] == num_parameters
    assert facts["weight_bytes"] == 4 * num_parameters
    assert facts["max_model_len"] == 256
    assert 0 < facts["available_bytes"] <= facts["total_bytes"]
    assert (facts["swap_space_bytes"] > 0) == (facts["num_swap_blocks"] > 0) == (device != "cpu")
    assert facts["kv_bytes_per_token"] >= 2 * 2 * 16 * 4  # more where the backend fills small heads up to whole vectors


def test_info_reads_no_weights(run_quire: Run, tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "model")
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) - 1000] + b"\xff" * 1000)
    assert run_quire("info", str(folder)).returncode == 0


def test_info_lists_the_devices_and_how_far_each_is_to_be_trusted(run_quire: Run, device: str) -> None:
    rows = json.loads(run_quire("info", "--devices", "--json").stdout)
    assert [row["name"] for row in rows] == ["cpu", "cuda", "hip"]
    for row in rows:
        assert row["standing"]
        assert (row["num_devices"] > 0) == (row["why_none"] == "")
    assert next(row for row in rows if row["name"] == device)["num_devices"] > 0
    listed = run_quire("info", "--devices").stdout
    assert listed.startswith("cpu   1 here\n") and "not measured" in listed


def test_info_lists_the_families(run_quire: Run) -> None:
    rows = json.loads(run_quire("info", "--families", "--json").stdout)
    assert rows["llama"] == ["LlamaForCausalLM", "LLaMAForCausalLM"]
    names = [name for architectures in rows.values() for name in architectures]
    assert len(names) == len(set(names)) > 50
    listed = run_quire("info", "--families").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(rows)
    assert listed[0].split(None, 1)[1] == "LlamaForCausalLM, LLaMAForCausalLM"
