"""Models by name: what is fetched, what is kept, what is said when it cannot be had. The hub is a stand-in."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import quire
import standin_hub
import tiny
from quire import EngineArgs, hub
from quire.client import Client
from server_process import running_server
from standin_hub import COMMIT, StandInHub

STORYTELLER = Path(quire.__file__).parent / "storyteller"
FIXED = ["--temperature", "0", "--max-tokens", "6", "--quiet"]
NEEDED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    folder = tmp_path_factory.mktemp("hub")
    sharded = shutil.copytree(tiny.make(folder / "sharded"), folder / "both")
    with standin_hub.running(
        {
            "org/story": STORYTELLER,
            "story": STORYTELLER,
            "org/sharded": split(folder / "sharded"),
            "org/both": with_copies(sharded),
            "org/gguf": write(folder / "gguf", "config.json", "model.Q4.gguf"),
            "org/adapter": write(folder / "adapter", "config.json", "adapter_config.json"),
            "org/dataset": write(folder / "dataset", "train.csv"),
            "org/bad-index": write(folder / "bad", "config.json", "model.safetensors.index.json"),
        }
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def as_it_was(stand_in: StandInHub) -> None:
    stand_in.broken, stand_in.token = False, None
    stand_in.gated.clear()
    stand_in.fetched.clear()
    stand_in.requests.clear()


def write(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    return folder


def split(folder: Path) -> Path:
    """The same weights in two files with an index."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1-of-2.safetensors": names[:5], "model-2-of-2.safetensors": names[5:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def with_copies(folder: Path) -> Path:
    """What authors put beside a model: the weights in other formats, code, pictures."""
    for name in ("pytorch_model.bin", "modeling.py", "README.md", "original/model.safetensors", "model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be fetched")
    return folder


def run(stand_in: StandInHub | None, home: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`quire` with a cache of its own, whose hub is the stand-in, or is not there."""
    variables = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    variables["HF_ENDPOINT"] = "http://127.0.0.1:9" if stand_in is None else stand_in.url
    return subprocess.run(
        [sys.executable, "-m", "quire", *words],
        env={**variables, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def generate(stand_in: StandInHub | None, home: Path, model: str, *words: str, **environment: str) -> str:
    result = run(stand_in, home, "generate", "Once upon", "--model", model, *FIXED, *words, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def error_of(stand_in: StandInHub | None, home: Path, model: str, *words: str, **environment: str) -> str:
    """The one line that is said."""
    result = run(stand_in, home, "generate", "Once upon", "--model", model, *FIXED, *words, **environment)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.strip() and "Fetching" not in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_name_is_fetched_once_and_then_comes_from_the_cache(stand_in: StandInHub, tmp_path: Path) -> None:
    expected = generate(None, tmp_path, str(STORYTELLER))
    assert generate(stand_in, tmp_path, "org/story") == expected
    assert set(stand_in.fetched) == NEEDED
    assert len(stand_in.fetched) == len(NEEDED)
    assert (tmp_path / "hub" / "models--org--story" / "snapshots" / COMMIT / "config.json").exists()
    stand_in.fetched.clear()
    assert generate(stand_in, tmp_path, "org/story") == expected
    assert generate(stand_in, tmp_path, "org/story", HF_HUB_OFFLINE="1") == expected
    assert stand_in.fetched == []


def test_without_the_network_the_cache_serves_and_says_so(stand_in: StandInHub, tmp_path: Path) -> None:
    generate(stand_in, tmp_path, "org/story")
    result = run(None, tmp_path, "generate", "Once", "--model", "org/story", *FIXED)
    assert (result.returncode, result.stderr.count("\n")) == (0, 1)
    assert "http://127.0.0.1:9 cannot be reached: model='org/story' is taken from the cache" in result.stderr
    stand_in.broken = True
    assert "taken from the cache" in run(stand_in, tmp_path, "info", "org/story").stderr


def test_while_it_fetches_there_is_a_bar_and_later_there_is_none(stand_in: StandInHub, tmp_path: Path) -> None:
    words = ["generate", "Once", "--model", "org/story", *FIXED]
    assert "Fetching 5 files" in run(stand_in, tmp_path, *words).stderr
    assert run(stand_in, tmp_path, *words).stderr == ""


def test_llm_takes_a_name(stand_in: StandInHub, tmp_path: Path) -> None:
    code = "from quire import LLM; print(LLM('org/story').generate('Once', use_tqdm=False)[0].outputs[0].text)"
    variables = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": stand_in.url}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert result.stdout.strip(), result.stderr


def test_a_server_serves_a_name(stand_in: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": stand_in.url}.items():
        monkeypatch.setenv(name, value)
    with running_server(tmp_path, "org/story") as running:
        client = Client(running.url)
        assert client.model() == ("org/story", 1024)
        answer = client.post("/v1/completions", {"model": "org/story", "prompt": "Once", "max_tokens": 3})
    assert answer["usage"]["completion_tokens"] == 3


def test_a_name_without_an_owner_is_one_too(stand_in: StandInHub, tmp_path: Path) -> None:
    assert generate(stand_in, tmp_path, "story")


def test_shards_are_fetched_as_the_index_lists_them(stand_in: StandInHub, tmp_path: Path) -> None:
    generate(stand_in, tmp_path, "org/sharded")
    weights = {name for name in stand_in.fetched if name.endswith(".safetensors")}
    assert weights == {"model-1-of-2.safetensors", "model-2-of-2.safetensors"}


def test_of_several_formats_only_safetensors_are_fetched(stand_in: StandInHub, tmp_path: Path) -> None:
    generate(stand_in, tmp_path, "org/both")
    assert "model.safetensors" in stand_in.fetched
    others = {"pytorch_model.bin", "modeling.py", "README.md", "original/model.safetensors", "model.onnx"}
    assert not others & set(stand_in.fetched)


def test_load_format_chooses_what_is_fetched(stand_in: StandInHub, tmp_path: Path) -> None:
    generate(stand_in, tmp_path, "org/both", "--load-format", "dummy", "--max-model-len", "100")
    assert not [name for name in stand_in.fetched if "model." in name and "tokenizer" not in name]
    error_of(stand_in, tmp_path, "org/both", "--load-format", "pt")  # they are no weights
    assert "pytorch_model.bin" in stand_in.fetched
    assert "model.safetensors" not in stand_in.fetched


def test_info_fetches_no_weights(stand_in: StandInHub, tmp_path: Path) -> None:
    facts = json.loads(run(stand_in, tmp_path, "info", "org/story", "--json").stdout)
    local = json.loads(run(None, tmp_path, "info", str(STORYTELLER), "--json").stdout)
    assert facts["model"] == "org/story"
    for name in ("num_parameters", "weight_bytes", "architecture", "max_model_len"):
        assert facts[name] == local[name]
    assert set(stand_in.fetched) == NEEDED - {"model.safetensors"}


def test_revision_and_download_dir(stand_in: StandInHub, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    generate(stand_in, tmp_path / "home", "org/story", "--revision", "v1", "--download-dir", str(kept))
    assert (kept / "models--org--story" / "refs" / "v1").read_text() == COMMIT
    assert not (tmp_path / "home" / "hub").exists()
    message = error_of(stand_in, tmp_path, "org/story", "--revision", "v9")
    assert "model='org/story' has no revision='v9'" in message


def test_the_tokenizer_may_have_a_name_of_its_own(stand_in: StandInHub, tmp_path: Path) -> None:
    generate(stand_in, tmp_path, str(STORYTELLER), "--tokenizer", "org/story", "--tokenizer-revision", "v1")
    assert set(stand_in.fetched) == NEEDED - {"model.safetensors"}
    assert "tokenizer='org/none' is not a folder here" in error_of(
        stand_in, tmp_path, str(STORYTELLER), "--tokenizer", "org/none"
    )


def test_a_gated_model_needs_the_token_of_somebody_with_access(stand_in: StandInHub, tmp_path: Path) -> None:
    stand_in.gated, stand_in.token = {"org/story"}, "right"
    for token in ("", "wrong"):
        message = error_of(stand_in, tmp_path, "org/story", HF_TOKEN=token)
        assert "model='org/story' is gated" in message
        assert "HF_TOKEN" in message
    generate(stand_in, tmp_path, "org/story", HF_TOKEN="right")


def test_a_local_folder_never_asks_the_hub(stand_in: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    shutil.copytree(STORYTELLER, tmp_path / "org" / "story")
    variables = {**os.environ, "HF_ENDPOINT": stand_in.url, "HF_HUB_OFFLINE": "0"}
    code = (
        "import sys; from quire import LLM; LLM('org/story').generate('Once', use_tqdm=False);"
        "print('huggingface_hub' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
    assert stand_in.requests == []


UNUSABLE = [
    ("org/none", "is not a folder here, and http://.* has no such model; if it is a private one, set HF_TOKEN"),
    ("org/gguf", "has neither model.safetensors nor pytorch_model.bin at .* GGUF"),
    ("org/adapter", "LoRA adapter; take the model it belongs to"),
    ("org/dataset", "no language model"),
    ("org/bad-index", "model.safetensors.index.json. has no weight_map"),
    ("a/b/c", "'a/b/c' is not a folder"),
    ("./org/story", "is not a folder"),
    ("org/story/", "is not a folder"),
]


@pytest.mark.parametrize(("model", "says"), UNUSABLE)
def test_what_cannot_be_used_is_told_in_one_line(stand_in: StandInHub, tmp_path: Path, model: str, says: str) -> None:
    import re

    message = error_of(stand_in, tmp_path, model)
    assert re.search(says, message), message


def test_what_is_neither_cached_nor_in_reach_is_told_in_one_line(stand_in: StandInHub, tmp_path: Path) -> None:
    assert "127.0.0.1:9 cannot be reached; check the network" in error_of(None, tmp_path, "org/story")
    stand_in.broken = True
    assert "cannot be reached; check the network" in error_of(stand_in, tmp_path, "org/story")
    assert "unset HF_HUB_OFFLINE" in error_of(None, tmp_path, "org/story", HF_HUB_OFFLINE="1")


def test_what_is_cached_in_part_is_told_in_one_line(stand_in: StandInHub, tmp_path: Path) -> None:
    assert run(stand_in, tmp_path, "info", "org/story").returncode == 0
    assert "nor complete in the cache" in error_of(None, tmp_path, "org/story", HF_HUB_OFFLINE="1")


class Broken:
    """A hub of which nothing can be had."""

    title, variable, only_local = "the hub", "HF_TOKEN", False

    def __init__(self, error: Exception) -> None:
        self._error = error

    def file_names(self) -> list[str]:
        raise self._error

    def download(self, names: list[str]) -> str:
        raise self._error


class HttpError(Exception):
    """What HTTP libraries raise: the answer is in it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} at https://secret")
        self.response = SimpleNamespace(status_code=status)


FAILURES: list[tuple[Exception, type[OSError], str]] = [
    (OSError(errno.ENOSPC, "No space left"), OSError, "model='a/b' does not fit.*--download-dir"),
    (OSError(errno.EACCES, "Permission denied"), PermissionError, "no right to write.*--download-dir"),
    (ConnectionResetError("reset"), ConnectionError, "cannot be reached; check the network"),
    (TimeoutError("late"), ConnectionError, "cannot be reached"),
    (HttpError(403), PermissionError, "may not be read at the hub with this token; set HF_TOKEN"),
    (HttpError(404), FileNotFoundError, "revision='main' is not a folder here, and not found"),
    (HttpError(502), ConnectionError, "cannot be reached"),
    (RuntimeError("first line\nsecond line"), OSError, "model='a/b' cannot be fetched from the hub: first line$"),
]


@pytest.mark.parametrize(("error", "kind", "says"), FAILURES)
def test_failures_become_one_line(
    error: Exception, kind: type[OSError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HuggingFace", lambda source: Broken(error))
    with pytest.raises(kind, match=says) as caught:
        hub.fetch(hub.Source("a/b"))
    assert "\n" not in str(caught.value)


def test_names_and_paths_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert [hub.is_name(name) for name in ("org/name", "gpt2", "Qwen/Qwen2.5-0.5B_x")] == [True] * 3
    others = ("there", "./x", "../x", "/x/y", "~/x", "a/b/c", "a/", "", "-x", "a b", "org/.hidden", "a\\b")
    assert not [name for name in others if hub.is_name(name)]


def test_revision_counts_for_names_alone(tmp_path: Path) -> None:
    assert EngineArgs(model=str(tmp_path), revision="v1").without_effect() == ["revision"]
    assert EngineArgs(model="org/name", revision="v1", download_dir="x").without_effect() == []


FAKE_MODELSCOPE = """
import json, os, shutil
SOURCE, LOG = os.environ["FAKE_SOURCE"], os.environ["FAKE_LOG"]

class HubApi:
    def get_model_files(self, name, revision=None, recursive=False):
        return [{"Path": file, "Size": 1} for file in sorted(os.listdir(SOURCE))]

def snapshot_download(name, revision=None, cache_dir=None, allow_patterns=None, local_files_only=False):
    with open(LOG, "a") as log:
        print(json.dumps([name, revision, cache_dir, sorted(allow_patterns), local_files_only]), file=log)
    folder = os.path.join(cache_dir, name)
    os.makedirs(folder, exist_ok=True)
    for file in allow_patterns:
        shutil.copy(os.path.join(SOURCE, file), folder)
    return folder
"""


def modelscope(folder: Path, with_package: bool = True) -> dict[str, Any]:
    """Variables under which a package modelscope is found that fetches the storyteller, or none is."""
    package = folder / "packages" / "modelscope" / "hub"
    package.mkdir(parents=True)
    for name in ("../__init__.py", "__init__.py"):
        (package / name).write_text("" if with_package else "raise ImportError('No module named modelscope')")
    for name in ("api.py", "snapshot_download.py"):
        (package / name).write_text(FAKE_MODELSCOPE)
    paths = [str(folder / "packages"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "FAKE_SOURCE": str(STORYTELLER),
        "FAKE_LOG": str(folder / "log"),
    }


@pytest.mark.parametrize("variable", ["VLLM_USE_MODELSCOPE", "QUIRE_USE_MODELSCOPE"])
def test_modelscope_is_asked_if_the_environment_says_so(stand_in: StandInHub, tmp_path: Path, variable: str) -> None:
    variables = {**modelscope(tmp_path), variable: "True"}
    cache = str(tmp_path / "cache")
    generate(stand_in, tmp_path, "org/scope", "--download-dir", cache, "--revision", "v2", **variables)
    (call,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert call == ["org/scope", "v2", cache, sorted(NEEDED), False]
    assert stand_in.requests == []


def test_without_the_package_modelscope_one_line_says_how_to_get_it(stand_in: StandInHub, tmp_path: Path) -> None:
    variables = {**modelscope(tmp_path, with_package=False), "QUIRE_USE_MODELSCOPE": "1"}
    message = error_of(stand_in, tmp_path, "org/scope", **variables)
    assert "pip install modelscope, or unset QUIRE_USE_MODELSCOPE" in message
