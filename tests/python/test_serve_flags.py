"""Flags of the server: vLLM's names and defaults, command line before environment before file, what is refused."""

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.cli import UsageError, main
from quire.commands.serve import notes
from quire.server_arguments import ServerArgs, parse_server_args

Run = Callable[..., "subprocess.CompletedProcess[str]"]

OF_VLLM: dict[str, Any] = {
    "host": "127.0.0.1",  # vLLM: all interfaces
    "port": 8000,
    "uvicorn_log_level": "info",
    "allow_credentials": False,
    "allowed_origins": ("*",),
    "allowed_methods": ("*",),
    "allowed_headers": ("*",),
    "api_key": None,
    "served_model_name": (),  # vLLM: None; here there may be several
    "lora_modules": (),
    "chat_template": None,
    "response_role": "assistant",
    "ssl_keyfile": None,
    "ssl_certfile": None,
    "ssl_ca_certs": None,
    "ssl_cert_reqs": 0,
    "root_path": None,
    "middleware": (),
}

LIMITS: dict[str, Any] = {
    "max_queued_requests": 1024,
    "max_queued_tokens": None,
    "max_body_bytes": 32 << 20,
    "max_header_bytes": 64 << 10,
    "drain_timeout": 30.0,
    "step_watchdog": 30.0,
}


def parse(*words: str, **environ: str) -> ServerArgs:
    return parse_server_args(words, environ)


def test_names_and_defaults_are_those_of_vllm_and_the_limits_are_on() -> None:
    values = {entry.name: getattr(parse(), entry.name) for entry in dataclasses.fields(ServerArgs)}
    assert {name: values[name] for name in OF_VLLM} == OF_VLLM
    assert {name: values[name] for name in LIMITS} == LIMITS
    assert parse().engine.max_model_len is None


def test_every_flag_of_vllm_is_understood() -> None:
    words = (
        "--model m --tokenizer t --revision r --code-revision c --tokenizer-revision v --download-dir d "
        "--tokenizer-mode slow --trust-remote-code --load-format safetensors --dtype half --kv-cache-dtype auto "
        "--max-model-len 512 --worker-use-ray -pp 1 -tp 1 --max-parallel-loading-workers 2 --ray-workers-use-nsight "
        "--block-size 32 --enable-prefix-caching --use-v2-block-manager --seed 3 --swap-space 2 "
        "--gpu-memory-utilization 0.8 --forced-num-gpu-blocks 99 --max-num-batched-tokens 512 --max-num-seqs 8 "
        "--max-logprobs 5 --disable-log-stats --enforce-eager --max-context-len-to-capture 99 "
        "--disable-custom-all-reduce --tokenizer-pool-size 2 --tokenizer-pool-type ray --max-loras 2 "
        "--max-lora-rank 8 --lora-extra-vocab-size 0 --lora-dtype auto --max-cpu-loras 2 --device cpu "
        "--scheduler-delay-factor 0.5 --enable-chunked-prefill True --engine-use-ray --disable-log-requests "
        "--max-log-len 50 --host 0.0.0.0 --port 9 --uvicorn-log-level warning --allow-credentials --api-key k "
        '--allowed-origins ["http://a"] --allowed-methods ["GET"] --allowed-headers ["x"] --served-model-name a b '
        "--response-role bot --root-path /api/ --middleware a.B --middleware c.D"
    )
    arguments = parse(*words.split(" "))
    assert arguments.engine.model == "m"
    assert arguments.engine.enable_chunked_prefill
    assert arguments.engine.max_model_len == 512
    assert (arguments.disable_log_stats, arguments.disable_log_requests) == (True, True)
    assert (arguments.served_model_name, arguments.model_names) == (("a", "b"), ("a", "b"))
    assert (arguments.allowed_origins, arguments.middleware) == (("http://a",), ("a.B", "c.D"))
    assert (arguments.root_path, arguments.response_role, arguments.port) == ("/api", "bot", 9)


def test_the_model_is_an_argument_or_a_flag_and_gives_the_name() -> None:
    assert parse("org/m").model_names == parse("--model", "org/m").model_names == ("org/m",)
    assert parse().model_names == ("storyteller",)
    with pytest.raises(UsageError, match="not both"):
        parse("m", "--model", "m")


INVALID = [
    ("--port 70000", r"port must be in \[0, 65535\].*70000"),
    ("--port http", "--port: expected an integer, got 'http'"),
    ("--host=", "host must not be empty"),
    ("--uvicorn-log-level loud", "uvicorn_log_level must be one of.*'loud'"),
    ("--allowed-origins *", "--allowed-origins: expected a list in JSON"),
    ("--allowed-origins 5", "allowed_origins must be a list.*5"),
    ("--allowed-methods [1]", r"allowed_methods\[0\] must be a string, got 1"),
    ("--ssl-cert-reqs 3", "ssl_cert_reqs must be 0 .*3"),
    ("--ssl-keyfile k.pem", "ssl_certfile must be given too"),
    ("--ssl-cert-reqs 2", "ssl_ca_certs must be given too"),
    ("--root-path api", "root_path must begin with a slash, got 'api'"),
    ("--middleware nodots", r"middleware\[0\] must be an import path.*'nodots'"),
    ("--lora-modules nopath", r"lora_modules\[0\] must be NAME=FOLDER, got 'nopath'"),
    ("--max-queued-requests 0", "max_queued_requests must be at least 1, got 0"),
    ("--max-queued-tokens 0", "max_queued_tokens must be at least 1, got 0"),
    ("--max-body-bytes lots", "--max-body-bytes: expected a size in bytes.*'lots'"),
    ("--max-header-bytes 0", "max_header_bytes must be at least 1"),
    ("--drain-timeout -1", "drain_timeout must be at least 0, got -1"),
    ("--step-watchdog nan", "step_watchdog must be finite"),
    ("--metrics-prefix a-b", "metrics_prefix must be made of.*'a-b'"),
    ("--max-model-len 1", "max_model_len must be at least 2, got 1"),
    ("--max-log-len -1", "max_log_len must be at least 0, got -1"),
    ("--api-key=", "api_key must be printable ASCII"),
    ("--prot 1", "unknown flag --prot, did you mean --port"),
    ("m n", "unexpected argument 'n'"),
]


@pytest.mark.parametrize(("words", "says"), INVALID)
def test_wrong_values_are_named(words: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse(*words.split(" "))
    assert "\n" not in str(caught.value)


def test_what_is_not_offered_yet_says_so() -> None:
    with pytest.raises(NotImplementedError, match="lora_modules=.*not offered yet; merge"):
        parse("--lora-modules", "a=b")
    with pytest.raises(NotImplementedError, match="pipeline_parallel_size=2 is not offered yet"):
        parse("-pp", "2")
    assert parse("-tp", "2").engine.tensor_parallel_size == 2


def test_the_command_line_goes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nhost: 127.0.0.3\nmax-model-len: 100\nserved_model_name: [f, g]\nmodel: from-file\n")
    arguments = parse(
        "--config", str(file), "--port", "3", QUIRE_PORT="2", QUIRE_HOST="127.0.0.2", QUIRE_SERVED_MODEL_NAME="e"
    )
    assert (arguments.port, arguments.host, arguments.engine.max_model_len) == (3, "127.0.0.2", 100)
    assert (arguments.served_model_name, arguments.engine.model) == (("e",), "from-file")
    assert parse(QUIRE_CONFIG=str(file)).host == "127.0.0.3"
    assert parse("given", QUIRE_CONFIG=str(file)).engine.model == "given"


def test_a_file_may_be_json_or_yaml_with_values_of_their_kinds(tmp_path: Path) -> None:
    content = {"port": 5, "max-body-bytes": "1M", "enforce-eager": True, "allowed_origins": ["x"], "middleware": "a.B"}
    (tmp_path / "c.json").write_text(json.dumps(content))
    (tmp_path / "c.yaml").write_text(
        "--port: 5\nmax-body-bytes: 1M\nenforce_eager: true\nallowed-origins: [x]\nmiddleware: a.B"
    )
    for name in ("c.json", "c.yaml"):
        arguments = parse("--config", str(tmp_path / name))
        assert (arguments.port, arguments.max_body_bytes, arguments.engine.enforce_eager) == (5, 1 << 20, True)
        assert (arguments.allowed_origins, arguments.middleware) == (("x",), ("a.B",))
    (tmp_path / "empty.yaml").write_text("")
    assert parse("--config", str(tmp_path / "empty.yaml")) == parse()


BAD_FILES = [
    ("prot: 1", "unknown flag 'prot', did you mean port"),
    ("port: many", "c.yaml: port: expected an integer, got 'many'"),
    ("port: 99999", r"c.yaml: port must be in \[0, 65535\]"),
    ("port: null", "port must be an integer, got None"),
    ("enforce-eager: 1", "enforce_eager must be True or False, got 1"),
    ("max-model-len: 5\nmax_model_len: 6", "'max_model_len' is there twice"),
    ("- port", "expected flags with their values"),
    ("port: [", "not YAML"),
    ("\x00", "not YAML"),
    ("a: &a [1]\nport: *b", "not YAML"),
    ("config: other.yaml", "unknown flag 'config'"),
    ("!!python/object/apply:os.system ['touch {canary}']", "not YAML"),
]


@pytest.mark.parametrize(("content", "says"), BAD_FILES)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, content: str, says: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "c.yaml").write_text(content.replace("{canary}", str(canary)))
    with pytest.raises(UsageError, match=says):
        parse("--config", str(tmp_path / "c.yaml"))
    assert not canary.exists()


def test_a_missing_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "no.yaml")]) == 1
    assert "no.yaml: No such file" in capsys.readouterr().err


def test_the_environment_has_words_for_switches_and_lists() -> None:
    assert not parse(QUIRE_PAGE="off").page
    assert parse(QUIRE_ENABLE_PREFIX_CACHING="No").engine.enable_prefix_caching is False
    assert parse(QUIRE_MAX_MODEL_LEN="auto").engine.max_model_len == "auto"
    assert parse(QUIRE_SERVED_MODEL_NAME="a, b").served_model_name == ("a", "b")
    for variables, says in (
        ({"QUIRE_PAGE": "maybe"}, "QUIRE_PAGE: expected true or false, got 'maybe'"),
        ({"QUIRE_PORT": ""}, "QUIRE_PORT: expected an integer, got ''"),
        ({"QUIRE_PORT": "-1"}, "QUIRE_PORT: port must be in"),
    ):
        with pytest.raises(UsageError, match=says):
            parse(**variables)


def test_the_key_comes_from_flag_or_environment_and_is_never_shown(tmp_path: Path) -> None:
    assert parse(VLLM_API_KEY="v").api_key == "v"
    assert parse(VLLM_API_KEY="v", QUIRE_API_KEY="q").api_key == "q"
    assert parse("--api-key", "c", QUIRE_API_KEY="q").api_key == "c"
    assert "sesame" not in repr(parse("--api-key", "sesame"))
    for variable in ("VLLM_API_KEY", "QUIRE_API_KEY"):
        with pytest.raises(UsageError, match=f"{variable}: api_key must be") as caught:
            parse(**{variable: "open sesame"})
        assert "sesame" not in str(caught.value)
        with pytest.raises(UsageError, match=f"{variable}: api_key must be"):
            parse(**{variable: ""})  # who sets a key wants one


def test_misspelt_variables_and_those_of_kubernetes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        arguments = parse(QUIRE_PROT="1", QUIRE_PORT="tcp://10.0.0.1:80", QUIRE_BACKEND_PATH="/x", QUIRE_OTHER="y")
    assert arguments.port == 8000
    assert [record.getMessage() for record in caplog.records] == [
        "QUIRE_PORT=tcp://10.0.0.1:80 is about a Kubernetes service, not a flag of the server: ignored",
        "QUIRE_PROT is no flag and changes nothing, did you mean QUIRE_PORT?",
    ]


def test_the_operator_is_told_what_changes_nothing_and_what_is_open() -> None:
    assert notes(parse()) == []
    assert notes(parse("--use-v2-block-manager", "--engine-use-ray")) == [
        "these flags change nothing here: --use-v2-block-manager, --engine-use-ray"
    ]
    for host in ("0.0.0.0", "::", "10.1.2.3"):
        (warning,) = notes(parse("--host", host))
        assert f"whoever can reach {host}:8000 may use the model" in warning
    assert notes(parse("--host", "0.0.0.0", "--api-key", "k")) == []
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1"):
        assert notes(parse("--host", host)) == []


def test_a_chat_template_is_a_file_or_the_text_itself(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages }} ä")
    assert parse("--chat-template", str(file)).read_chat_template() == "{{ messages }} ä"
    assert parse("--chat-template", r"{{ 'ä' }}\n\t\\n").read_chat_template() == "{{ 'ä' }}\n\t\\n"
    assert parse().read_chat_template() is None
    with pytest.raises(FileNotFoundError):
        parse("--chat-template", str(tmp_path / "no.jinja")).read_chat_template()
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="chat_template=.*not UTF-8: byte 0"):
        parse("--chat-template", str(file)).read_chat_template()


def test_help_is_in_groups_with_examples(run_quire: Run) -> None:
    result = run_quire("serve", "--help")
    groups = [line for line in result.stdout.splitlines() if line and line[0].isalpha() and line.endswith(":")]
    assert [group for group in groups if group != "positional arguments:" and group != "options:"] == [
        f"{name}:" for name in ("model", "server", "access", "limits", "logs", "engine")
    ]
    for part in ("curl http://127.0.0.1:8000/v1/completions", "QUIRE_MAX_MODEL_LEN", "(default: 127.0.0.1)", "32M"):
        assert part in result.stdout
    for hidden in ("--use-v2-block-manager", "--lora-modules", "--engine-use-ray"):
        assert hidden not in result.stdout


def start(*words: str, module: str = "quire", **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *(["serve"] if module == "quire" else []), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, stdin=subprocess.DEVNULL
    )


def failures(tmp_path: Path, port: int) -> list[tuple[list[str], str]]:
    (tmp_path / "cert.pem").write_text("no certificate")
    (tmp_path / "bad.jinja").write_text("{% if %}")
    certificate = ["--ssl-certfile", str(tmp_path / "cert.pem"), "--ssl-keyfile", str(tmp_path / "cert.pem")]
    return [
        (["--port", str(port)], f"127.0.0.1:{port}: Address already in use"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--ssl-certfile", str(tmp_path / "none.pem")], "none.pem"),
        (certificate, "cert.pem"),
        (["--chat-template", str(tmp_path / "none.jinja")], "none.jinja: No such file"),
        (["--chat-template", str(tmp_path / "bad.jinja")], "chat_template"),
        ([str(tmp_path / "model")], "model='.*model' is not a folder"),
        (["org/none"], "HF_HUB_OFFLINE"),
        (["--middleware", "no.such.Thing"], "no"),
        (["--max-model-len", "1000000"], "max_model_len"),
    ]


def test_what_keeps_a_server_from_starting_is_told_in_one_line(tmp_path: Path) -> None:
    import re

    with socket.create_server(("127.0.0.1", 0)) as taken:
        for words, says in failures(tmp_path, taken.getsockname()[1]):
            result = start(*(words if "--port" in words else [*words, "--port", "0"]))
            lines = [
                line
                for line in result.stderr.splitlines()
                if not line.startswith("quire: warning") and " INFO " not in line
            ]
            assert result.returncode == 1, (words, result.stderr)
            assert len(lines) == 1, (words, result.stderr)
            assert lines[0].startswith("quire: error: "), lines
            assert re.search(says, lines[0]), (words, lines)


def test_debug_shows_where_it_failed(tmp_path: Path) -> None:
    result = start("--debug", str(tmp_path / "missing"))
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("module", ["quire.entrypoints.openai.api_server", "quire.entrypoints.api_server"])
def test_vllms_modules_are_the_same_command(module: str) -> None:
    wrong = start("--model", "m", "--port", "x", module=module)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "--port: expected an integer, got 'x'" in wrong.stderr
    missing = start("--model", "./missing", "--use-v2-block-manager", "--host", "0.0.0.0", "--port", "0", module=module)
    told = [line for line in missing.stderr.splitlines() if " INFO " not in line]
    assert missing.returncode == 1
    assert "these flags change nothing here: --use-v2-block-manager" in told[0]
    assert "may use the model" in told[1]
    assert "model='./missing' is not a folder" in told[2]
