"""Common mistakes at the command line: each gives one line that names what is wrong, and no traceback."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import tiny
from quire.cli import main


@dataclass
class Mistake:
    words: str
    """Split at spaces; {model} is a good model folder or, with `spoil`, a spoilt one; {folder} is for files."""
    says: str
    """Regular expression for the line on stderr."""
    status: int = 2
    spoil: Callable[[Path], object] | None = None


def change(**changes: object) -> Callable[[Path], object]:
    """Other values in config.json; None takes a field out."""

    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.update(changes)
        tiny.write_json(folder / "config.json", {name: value for name, value in config.items() if value is not None})

    return spoil


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, keep: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


WORDS = [
    Mistake("genrate hello", "unknown command 'genrate', did you mean generate"),
    Mistake("server", "unknown command 'server', did you mean serve"),
    Mistake("--verson", "unknown flag '--verson'"),
    Mistake("generate", "no prompt"),
    Mistake("generate --file {folder}/empty.txt", "no prompt: .*empty.txt is empty"),
    Mistake("generate a --file b", "argument or with --file, not both"),
    Mistake("generate once upon", "unexpected argument 'upon'.*quotes"),
    Mistake("generate a --temprature 1", "unknown flag --temprature, did you mean --temperature"),
    Mistake("generate a --max-new-tokens 5", "unknown flag --max-new-tokens"),
    Mistake("generate a --temperature", "--temperature: expected one argument"),
    Mistake("generate a --temperature hot", "--temperature: expected a number, got 'hot'"),
    Mistake("generate a --temperature -1", "temperature must be non-negative, got -1"),
    Mistake("generate a --temperature nan", "temperature must be finite, got nan"),
    Mistake("generate a --top-p 0", "top_p must be in"),
    Mistake("generate a --top_p 1.5", "top_p must be in .*1.5"),
    Mistake("generate a --top-k 0", "top_k must be -1 .*got 0"),
    Mistake("generate a --min-p 2", "min_p must be in .*2"),
    Mistake("generate a --presence-penalty 3", "presence_penalty must be in .*3"),
    Mistake("generate a --frequency-penalty -3", "frequency_penalty must be in .*-3"),
    Mistake("generate a --repetition-penalty 0", "repetition_penalty must be in .*0"),
    Mistake("generate a --max-tokens 0", "max_tokens must be at least 1, got 0"),
    Mistake("generate a --max-tokens 1.5", "--max-tokens: expected an integer, got '1.5'"),
    Mistake("generate a --max-tokens 5 --min-tokens 9", "min_tokens must be .*max_tokens=5, got 9"),
    Mistake("generate a --n 0", "n must be at least 1, got 0"),
    Mistake("generate a --n 1000", "n must be at most 128, got 1000"),
    Mistake("generate a --n 2 --temperature 0", "best_of must be 1 when using greedy"),
    Mistake("generate a --seed x", "--seed: expected an integer, got 'x'"),
    Mistake("generate a --stop=", "stop must not contain an empty string"),
    Mistake("generate a --stop-token-ids 1,b", "--stop-token-ids: expected token ids.*'1,b'"),
    Mistake("generate a --logit-bias 5", "--logit-bias: expected token ids and numbers.*'5'"),
    Mistake("generate a --dtype int8", "dtype must be one of.*'int8'"),
    Mistake("generate a --device tpu", "device must be one of.*'tpu'"),
    Mistake("generate a --block-size 7", "block_size must be one of.*7"),
    Mistake("generate a --max-model-len 0", "max_model_len must be at least 2, got 0"),
    Mistake("generate a --max-model-len all", "--max-model-len: expected an integer or auto, got 'all'"),
    Mistake("generate a --num-threads -1", "num_threads must be at least 0, got -1"),
    Mistake("generate a --max-num-seqs 0", "max_num_seqs must be at least 1, got 0"),
    Mistake("generate a --kv-cache-memory-bytes lots", "expected a size in bytes.*'lots'"),
    Mistake("generate a --gpu-memory-utilization 2", "gpu_memory_utilization must be in.*2"),
    Mistake("generate a --tensor-parallel-size two", "--tensor-parallel-size.*expected an integer, got 'two'"),
    Mistake("generate a -tp 0", "tensor_parallel_size must be at least 1, got 0"),
    Mistake("generate a -tp 65 --model {model}", "tensor_parallel_size=65, expected=at most 64", 1),
    Mistake(
        "generate a -tp 3 --model {model} --device cpu",
        "num_attention_heads=4, tensor_parallel_size=3: set.*1, 2 or 4",
        1,
    ),
    Mistake("generate a -pp 2", "pipeline_parallel_size=2 is not offered yet", 1),
    Mistake("generate a -q awq", "quantization='awq' is not offered yet", 1),
    Mistake("generate a --enable-lora", "enable_lora=True is not offered yet", 1),
    Mistake("generate a --model {model} --best-of 3", "best_of > n is not offered", 1),
    Mistake("generate a --model {model} --best-of 2 --temperature 0 --use-beam-search", "use_beam_search=True is", 1),
    Mistake("generate --file {folder}/missing.txt", "missing.txt: No such file", 1),
    Mistake("generate --file {folder}", "Is a directory", 1),
    Mistake("generate --file {folder}/binary", "binary is not UTF-8 text: .* at byte 0", 1),
    Mistake("generate a --model {folder}/missing", "model='.*missing' is not a folder", 1),
    Mistake(
        "generate a --model gpt/two",
        "model='gpt/two' is not a folder here, nor complete in the cache.*unset HF_HUB_OFFLINE",
        1,
    ),
    Mistake("generate a --model {model}/config.json", "is a file;.*give the folder that holds it", 1),
    Mistake("generate a --model=", "model must be the path of a folder"),
    Mistake("generate a --model {model} --tokenizer {folder}/no", "tokenizer='.*no' is not a folder", 1),
    Mistake("generate a --model {model} --max-model-len 100000", "max_model_len.*100000", 1),
    Mistake("generate a --model {model} --kv-cache-memory-bytes 10", "kv_cache_memory_bytes", 1),
    Mistake("generate a --model {model} --logprobs 100", "logprobs.*100", 1),
    Mistake("generate a --model {model} --stop-token-ids 99999", "stop_token_ids.*99999", 1),
    Mistake("generate a --model {model} --logit-bias 99999=1", "logit_bias.*99999", 1),
    Mistake("generate --model {model} --file {folder}/long.txt", "256", 1),
    Mistake("chat --model {model} --chat-template {folder}/missing.jinja", "missing.jinja: No such file", 1),
    Mistake("info {folder}/missing", "model='.*missing' is not a folder", 1),
    Mistake("info {model} --model {model}", "argument or with --model, not both"),
    Mistake("serve {model} --model {model}", "argument or with --model, not both"),
    Mistake("serve --prot 5", "unknown flag --prot, did you mean --port"),
    Mistake("serve --port 70000", "port must be in .*70000"),
    Mistake("serve {folder}/missing --port 0", "model='.*missing' is not a folder", 1),
    Mistake("serve --port 0 --chat-template {folder}/no.jinja", "no.jinja: No such file", 1),
    Mistake("serve --port 0 --config {folder}/no.yaml", "no.yaml: No such file", 1),
    Mistake("serve --port 0 --lora-modules a=b", "lora_modules=.*not offered yet", 1),
    Mistake("complete a --url ftp://x", "url must be like"),
    Mistake("complete a --url http://127.0.0.1:9", "127.0.0.1:9 cannot be reached", 1),
    Mistake("bench speed", "unknown command 'bench speed'.*bench latency"),
    Mistake("bench latency --batch-size 0", "batch_size must be at least 1, got 0"),
    Mistake("bench throughput --dataset-name books", "dataset_name must be one of.*'books'"),
    Mistake("run-batch -i {folder}/no.jsonl -o {folder}/out", "no.jsonl: No such file", 1),
]

MODELS = [
    Mistake("generate a --model {model}", r"config\.json", 1, remove("config.json")),
    Mistake("generate a --model {model}", r"config\.json", 1, write("config.json", b"{")),
    Mistake("generate a --model {model}", r"config\.json", 1, write("config.json", b"[]")),
    Mistake("generate a --model {model}", r"config\.json", 1, write("config.json", b"")),
    Mistake("generate a --model {model}", "architectures", 1, change(architectures=None, model_type=None)),
    Mistake("generate a --model {model}", "FutureForCausalLM", 1, change(architectures=["FutureForCausalLM"])),
    Mistake("generate a --model {model}", "hidden_size", 1, change(hidden_size="big")),
    Mistake("generate a --model {model}", "hidden_size", 1, change(hidden_size=-32)),
    Mistake("generate a --model {model}", "num_hidden_layers", 1, change(num_hidden_layers=0)),
    Mistake(
        "generate a --model {model}", "num_key_value_heads=2.*attention heads, 5", 1, change(num_attention_heads=5)
    ),
    Mistake("generate a --model {model}", "vocab_size|embed_tokens", 1, change(vocab_size=100)),
    Mistake("generate a --model {model}", "rope_scaling", 1, change(rope_scaling={"type": "magic", "factor": 2})),
    Mistake("generate a --model {model}", "layers.2", 1, change(num_hidden_layers=3)),
    Mistake("generate a --model {model}", "safetensors", 1, remove("model.safetensors")),
    Mistake("generate a --model {model}", r"model\.safetensors", 1, cut("model.safetensors", 0)),
    Mistake("generate a --model {model}", r"model\.safetensors", 1, cut("model.safetensors", 100)),
    Mistake("generate a --model {model}", r"model\.safetensors", 1, cut("model.safetensors", 100_000)),
    Mistake("generate a --model {model}", r"tokenizer\.json", 1, remove("tokenizer.json")),
    Mistake("generate a --model {model}", r"tokenizer\.json", 1, write("tokenizer.json", b"{}")),
    Mistake("generate a --model {model}", r"tokenizer\.json", 1, cut("tokenizer.json", 1000)),
    Mistake(
        "generate a --model {model}",
        r"generation_config\.json.*temperature must be a number, got 'hot'",
        1,
        write("generation_config.json", b'{"temperature": "hot"}'),
    ),
    Mistake("generate a --model {model}", r"generation_config\.json", 1, write("generation_config.json", b"{")),
    Mistake(
        "chat --model {model}",
        "no chat template: give one with --chat-template",
        1,
        write("tokenizer_config.json", b"{}"),
    ),
    Mistake("info {model}", r"config\.json", 1, remove("config.json")),
]


class Terminal(io.StringIO):
    """A stdin at which somebody sits, so that nothing is read from it by accident."""

    def isatty(self) -> bool:
        return True


def prepare(mistake: Mistake, folder: Path) -> list[str]:
    """The words of the command line, with the files they speak of."""
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "long.txt").write_text("zq " * 200)
    if "{model}" in mistake.words:
        tiny.make(folder / "model")
        if mistake.spoil:
            mistake.spoil(folder / "model")
    return [word.format(model=folder / "model", folder=folder) for word in mistake.words.split(" ")]


@pytest.mark.parametrize("mistake", WORDS + MODELS, ids=lambda mistake: f"{mistake.words}-{mistake.says}"[:70])
def test_a_mistake_gives_one_line_that_names_it(
    mistake: Mistake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = prepare(mistake, tmp_path)
    monkeypatch.setattr("sys.stdin", Terminal())
    status = main(words)
    shown = capsys.readouterr()
    assert shown.err.startswith("quire: error: ")
    assert shown.err.count("\n") == 1
    assert re.search(mistake.says, shown.err), shown.err
    assert "Traceback" not in shown.err
    assert status == mistake.status
    assert shown.out == ""


def test_there_are_sixty_of_them_and_more() -> None:
    assert len(WORDS) + len(MODELS) >= 60


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        main(["generate", "a", "--debug", "--model", str(tmp_path / "missing")])
