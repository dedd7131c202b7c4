"""Models by name: fetched from the Hugging Face hub, or from ModelScope, into those libraries' own caches.

What they read from the environment counts here too: HF_TOKEN, HF_HOME, HF_ENDPOINT (a mirror), HF_HUB_OFFLINE ...;
QUIRE_USE_MODELSCOPE or VLLM_USE_MODELSCOPE chooses ModelScope. Only files that are read are fetched, and nothing of
them is executed. Nothing here is imported for a local folder.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

logger = logging.getLogger("quire")

# Everything that is read beside the weights.
_SMALL_FILES = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
}
_SMALL_PATTERN = re.compile(r"[^/]+\.tiktoken|additional_chat_templates/[^/]+\.jinja")

# The order of the loader.
_WEIGHTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

_fetched: dict[Source, str] = {}


@dataclass(frozen=True)
class Source:
    """What to fetch."""

    name: str
    """As in "org/name"."""
    revision: str | None = None
    """Branch, tag or commit; None: the main one."""
    cache: str | None = None
    """Folder to keep models in; None: where the hub's library keeps them."""
    weights: str = "safetensors"
    """Which weights are preferred: "safetensors", "bin", or "none" for configuration and tokenizer alone."""
    field: str = "model"
    """Whose value the name is, for messages."""

    def __str__(self) -> str:
        return f"{self.field}={self.name!r}"


def is_name(model: str) -> bool:
    """Whether this may name a model of a hub, and is no folder here."""
    return not os.path.exists(os.path.expanduser(model)) and _NAME.fullmatch(model) is not None


def uses_modelscope() -> bool:
    """Whether names mean models of ModelScope."""
    variables = ("QUIRE_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE")
    value = next((os.environ[name] for name in variables if name in os.environ), "")
    return value.strip().lower() in ("1", "true", "yes", "on")


def fetch(source: Source) -> str:
    """The folder of a model, which is fetched unless it is there; once per process.

    Raises: OSError in one line that says what to do: FileNotFoundError, PermissionError, ConnectionError;
    ImportError if ModelScope's library is missing.
    """
    if source not in _fetched or not os.path.isdir(_fetched[source]):
        hub: Hub = ModelScope(source) if uses_modelscope() else HuggingFace(source)
        try:
            _fetched[source] = _fetch(hub, source)
        except ImportError:
            raise
        except Exception as error:
            _explain(error, hub, source)
    return _fetched[source]


class Hub(Protocol):
    """What is asked of a hub."""

    title: str
    variable: str
    """Of the environment, with the token."""

    only_local: bool
    """Whether only what was fetched before is to be had."""

    def file_names(self) -> list[str]:
        """The names of all files."""

    def download(self, names: list[str]) -> str:
        """Fetch files and return the folder that holds them."""


def _fetch(hub: Hub, source: Source) -> str:
    there = set(hub.file_names())
    names = sorted(name for name in there if name in _SMALL_FILES or _SMALL_PATTERN.fullmatch(name))
    if source.weights == "none":
        return hub.download(names)
    for index, single in _WEIGHTS if source.weights == "safetensors" else reversed(_WEIGHTS):
        if index in there:
            # The small files come first, because one of them tells which the large ones are.
            folder = hub.download([*names, index])
            return hub.download([*names, index, *_shards(Path(folder) / index)])
        if single in there:
            return hub.download([*names, single])
    if hub.only_local:
        raise FileNotFoundError(_NOT_COMPLETE.format(source=source, cache=_cache(source)))
    raise FileNotFoundError(
        f"{source} has neither model.safetensors nor pytorch_model.bin at {hub.title}: {_what_it_is(there)}"
    )


_NOT_COMPLETE = "{source} is not a folder here, nor complete in {cache}; to fetch it, unset HF_HUB_OFFLINE."


def _cache(source: Source) -> str:
    return f"the cache {source.cache!r}" if source.cache else "the cache"


def _what_it_is(names: set[str]) -> str:
    if any(name.endswith(".gguf") for name in names):
        return "it is in GGUF format, which is not read; take the original model."
    if "adapter_config.json" in names:
        return "it is a LoRA adapter; take the model it belongs to."
    return "it is no language model in Hugging Face format."


def _shards(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"[{index}] has no weight_map of tensors and files.") from None
    # Whether an index makes sense the loader finds out; only plain names may reach the hub.
    return sorted(name for name in names if isinstance(name, str) and re.fullmatch(r"[\w.-]+", name))


class HuggingFace:
    """huggingface.co, or the mirror that HF_ENDPOINT names."""

    variable = "HF_TOKEN"

    def __init__(self, source: Source) -> None:
        # Who uses what is nobody's business, unless somebody says so.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub import constants

        self.title = constants.ENDPOINT
        self._source = source
        self.only_local = False
        self._commit: str | None = None

    def file_names(self) -> list[str]:
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(self._source.name, revision=self._source.revision)
            self._commit = info.sha
            return [entry.rfilename for entry in info.siblings or []]
        except Exception as error:
            if not _is_unreachable(error):
                raise
            # What was fetched once can be used without the network.
            self.only_local = True
            names = _names_below(self._snapshot(None))
            if type(error).__name__ != "OfflineModeIsEnabled":
                logger.warning("%s cannot be reached: %s is taken from the cache", self.title, self._source)
            return names

    def download(self, names: list[str]) -> str:
        return self._snapshot(names)

    def _is_cached(self, name: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        source = self._source
        return isinstance(
            try_to_load_from_cache(source.name, name, cache_dir=source.cache, revision=self._commit or source.revision),
            str,
        )

    def _snapshot(self, names: list[str] | None) -> str:
        from huggingface_hub import snapshot_download

        # Nobody waits for what is there already: no bar then.
        bar = _silent_bar() if names is not None and all(map(self._is_cached, names)) else None
        return str(
            snapshot_download(
                self._source.name,
                revision=self._source.revision,
                cache_dir=self._source.cache,
                allow_patterns=["config.json"] if names is None else names,
                local_files_only=self.only_local,
                tqdm_class=bar,
            )
        )


def _silent_bar() -> Any:
    from tqdm.auto import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

    return Silent


class ModelScope:
    """modelscope.cn."""

    title = "ModelScope"
    variable = "MODELSCOPE_API_TOKEN"

    def __init__(self, source: Source) -> None:
        self._source = source
        self.only_local = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        self._snapshot_download = _import_modelscope("modelscope.hub.snapshot_download").snapshot_download

    def file_names(self) -> list[str]:
        if self.only_local:
            return _names_below(self.download(["config.json"]))
        api = _import_modelscope("modelscope.hub.api").HubApi()
        files = api.get_model_files(self._source.name, revision=self._source.revision, recursive=True)
        return [str(entry["Path"]) for entry in files]

    def download(self, names: list[str]) -> str:
        return str(
            self._snapshot_download(
                self._source.name,
                revision=self._source.revision,
                cache_dir=self._source.cache,
                allow_patterns=names,
                local_files_only=self.only_local,
            )
        )


def _import_modelscope(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"models of ModelScope need the package modelscope ({error}): pip install modelscope, "
            "or unset QUIRE_USE_MODELSCOPE and VLLM_USE_MODELSCOPE."
        ) from None


def _names_below(folder: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what led to it."""
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors


def _status(error: BaseException) -> int | None:
    """The HTTP status that a library's error carries."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_unreachable(error: BaseException) -> bool:
    """No answer, or one that says "later". The libraries' own HTTP clients change, so their errors go by module."""
    if (_status(error) or 0) >= 500:
        return True
    kinds = (ConnectionError, TimeoutError)
    return _status(error) is None and (
        isinstance(error, kinds)
        or type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore", "requests"))
    )


def _explain(error: Exception, hub: Hub, source: Source) -> NoReturn:
    """Raise the error in one line."""
    errors = _chain(error)
    for test, kind, text in _EXPLANATIONS:
        if any(test(one) for one in errors):
            revision = f"revision={source.revision or 'main'!r}"
            names = {"hub": hub.title, "variable": hub.variable, "revision": revision, "cache": _cache(source)}
            raise kind(text.format(source=source, **names)) from error
    if isinstance(error, (OSError, ValueError)) and type(error).__module__ == "builtins":
        raise error
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise OSError(f"{source} cannot be fetched from {hub.title}: {first_line}") from error


def _named(*names: str) -> Callable[[BaseException], bool]:
    return lambda error: type(error).__name__ in names


def _says(*statuses: int) -> Callable[[BaseException], bool]:
    return lambda error: _status(error) in statuses


_EXPLANATIONS: tuple[tuple[Callable[[BaseException], bool], type[OSError], str], ...] = (
    (
        lambda error: isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT),
        OSError,
        "{source} does not fit: no space left for {cache}; free some, or name another folder with --download-dir.",
    ),
    (
        lambda error: isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS),
        PermissionError,
        "{source} cannot be kept: no right to write to {cache}; name another folder with --download-dir.",
    ),
    (_named("OfflineModeIsEnabled"), FileNotFoundError, _NOT_COMPLETE),
    (
        _named("GatedRepoError"),
        PermissionError,
        "{source} is gated at {hub}: ask for access on its page, then set {variable} to a token of yours.",
    ),
    (
        _named("RevisionNotFoundError"),
        FileNotFoundError,
        "{source} has no {revision} at {hub}; give a branch, a tag or a commit of it.",
    ),
    (
        _named("RepositoryNotFoundError", "HFValidationError"),
        FileNotFoundError,
        "{source} is not a folder here, and {hub} has no such model; if it is a private one, set {variable}.",
    ),
    (_says(404), FileNotFoundError, "{source} with {revision} is not a folder here, and not found at {hub}."),
    (_says(401, 403), PermissionError, "{source} may not be read at {hub} with this token; set {variable}."),
    (
        _is_unreachable,
        ConnectionError,
        "{source} is not a folder here, nor complete in {cache}, and {hub} cannot be reached; check the network, or "
        "set HF_ENDPOINT to a mirror.",
    ),
    (_named("LocalEntryNotFoundError", "IncompleteSnapshotError"), FileNotFoundError, _NOT_COMPLETE),
)
