"""Servers that all tests of this folder share: each is started once, and must be left usable."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from server_process import CHAT_TEMPLATE, ServerProcess, running_server

SMALL_CACHE = ("--kv-cache-memory-bytes", "32M")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The built-in model, with a chat template."""
    folder = tmp_path_factory.mktemp("storyteller")
    with running_server(folder, *SMALL_CACHE, "--chat-template", CHAT_TEMPLATE) as running:
        yield running


@pytest.fixture(scope="session")
def stories_server(stories260k: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """stories260k of the shared folder, which has a vocabulary of 512 tokens and hence many bytes."""
    folder = tmp_path_factory.mktemp("stories260k")
    words = ("--model", str(stories260k), "--served-model-name", "stories", "second-name", "--response-role", "bard")
    with running_server(folder, *SMALL_CACHE, *words, "--chat-template", CHAT_TEMPLATE) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The official client, without retries."""
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="session")
def stories_client(stories_server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The official client of stories_server."""
    with openai.OpenAI(base_url=stories_server.url + "/v1", api_key="none", max_retries=0, timeout=60) as opened:
        yield opened
