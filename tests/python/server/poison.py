"""Requests that no server should do: each is refused with a 4xx, and hurts nobody else."""

import json
from typing import Any

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MODEL = "storyteller"

Poison = tuple[str, str, bytes, str | None]
"""(name, path, body, the param that the error names; None: any)"""


def _completion(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "prompt": "Once", "max_tokens": 4, **fields}).encode()


def _chat(**fields: Any) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 4, **fields}).encode()


def _raw(text: str) -> bytes:
    """A completion with something in it that Python's json would not write."""
    return (
        b'{"model": "storyteller", "prompt": "Once", "max_tokens": 4, ' + text.encode("utf-8", "surrogatepass") + b"}"
    )


# Field -> values that are out of its range or of the wrong type; both kinds of request refuse them.
_VALUES: dict[str, list[Any]] = {
    "n": [0, -1, 129, 10**6, 2**63, 10**400, 1.5, "2", True, [1], {}],
    "best_of": [0, 5, 10**6, "1"],
    "max_tokens": [-1, 2**31, 2**63, 10**6, 1.5, "16", [], False],
    "temperature": [-1, -1e-9, 1e39, 10**400, "0.5", [], {}, True],
    "top_p": [0, -0.1, 1.1, 1e39, "1"],
    "top_k": [0, -2, 2**31, 1.5, "5"],
    "min_p": [-0.1, 1.1, "0"],
    "presence_penalty": [-2.1, 2.1, 1e9, "1"],
    "frequency_penalty": [-1e9, 2.5, []],
    "repetition_penalty": [0, -1, 2.1, 1e9],
    "seed": [2**63, -(2**63) - 1, 1.5, "1", True],
    "stop": [[""], "", 5, [5], ["x"] * 17, ["x" * 5000], "x" * (10 << 20), ["a", None], {}],
    "stop_token_ids": [[-1], [4096], [2**31], [2**63], [1.5], ["1"], "1", list(range(129)), 5, {}],
    "logit_bias": [{"-1": 1}, {"4096": 1}, {"99999999999": 1}, {"a": 1}, {"1": "a"}, {"1": None}, [1], "x", {"1.5": 1}],
    "min_tokens": [-1, 5, 2**63, "1"],
    "stream": ["yes", 1, []],
    "stream_options": [5, "x", {"include_usage": "yes"}],
    "echo": ["yes", 1],
    "ignore_eos": ["no", 0],
    "skip_special_tokens": [1],
    "include_stop_str_in_output": ["x"],
    "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}, {"type": 5}, "text", {}],
    "model": ["unknown", "", 5, None, [], "../../etc/passwd", "x" * 10000],
    # Not offered yet.
    "tools": [[{"type": "function", "function": {"name": "f"}}], "x", [{"a": [[[]]]}]],
    "tool_choice": ["required", {"type": "function"}],
    "functions": [[{"name": "f"}]],
    "guided_json": [{"type": "object"}, "{}"],
    "guided_regex": ["(a+)+$"],
    "guided_choice": [["a", "b"]],
    "guided_grammar": ["root ::= x"],
    "structured_outputs": [{"regex": "a"}],
    "use_beam_search": [True],
    "length_penalty": [2.0],
    "early_stopping": [True, "never"],
    "logits_processors": [["x"]],
    "allowed_token_ids": [[1], [-1]],
    "bad_words": [["x"]],
    "prompt_logprobs": [1, 10**9],
    "truncate_prompt_tokens": [1],
    "prompt_embeds": ["AAAA", "!!!"],
    "lora_request": [{"lora_name": "x"}],
    "mm_processor_kwargs": [{}],
    "chat_template": ["{{ 1 }}"],
}

_OF_COMPLETIONS: dict[str, list[Any]] = {
    "prompt": [
        *([], [[]], None, 5, 1.5, {}, [1.5], [None], [{}], [True], [-1], [4096], [2**31], [2**63], [1, "a"]),
        *(
            ["a", 1],
            [[1], "a"],
            [[1], [4096]],
            [["a"]],
            [[[1]]],
            [1] * 1024,
            [[1]] * 1025,
            "\0",
            "a\0b",
            "x" * (10 << 20),
        ),
    ],
    "logprobs": [-1, 21, 10**9, 1.5, True, "1"],
    "suffix": ["end", ""],
    "add_special_tokens": ["x", 1],
}
_OF_CHAT: dict[str, list[Any]] = {
    "messages": [
        *([], None, "Hi", 5, {}, ["Hi"], [[]], [None], [{}], [{"role": "user"}], [{"content": "Hi"}]),
        *([{"role": 5, "content": "Hi"}], [{"role": "", "content": "Hi"}], [{"role": "user", "content": 5}]),
        *(
            [{"role": "user", "content": None}],
            [{"role": "user", "content": {}}],
            [{"role": "user", "content": ["Hi"]}],
        ),
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 5}]}],
        [{"role": "user", "content": "x " * 3000}],
        [{"role": "user", "content": "a\0b"}],
    ],
    "logprobs": [1, "true"],
    "top_logprobs": [-1, 21, 10**9, "1", 3],
    "max_completion_tokens": [-1, 0, 2**63, "1"],
    "add_generation_prompt": ["x"],
    "chat_template_kwargs": [{"messages": []}, {"cycler": 1}, {"enable_thinking": {}}, 5],
    "continue_final_message": [True],
    "documents": [[{"text": "x"}]],
    "modalities": [["audio"]],
    "audio": [{"voice": "x"}],
}

_RAW: list[tuple[str, bytes]] = [
    ("no body", b""),
    ("no JSON", b"hello"),
    ("half of an object", _completion()[:-1]),
    ("something behind it", _completion() + b"}"),
    ("a list", b"[]"),
    ("a text", b'"x"'),
    ("null", b"null"),
    ("an empty object", b"{}"),
    ("bad UTF-8", b'{"model": "storyteller", "prompt": "\xff\xfe"}'),
    ("UTF-16", _completion().decode().encode("utf-16")),
    ("a lone surrogate in the prompt", b'{"model": "storyteller", "prompt": "\\ud800"}'),
    ("a lone surrogate in stop", _raw('"stop": "\\udfff"')),
    ("NaN", _raw('"temperature": NaN')),
    ("infinity", _raw('"temperature": Infinity')),
    ("minus infinity", _raw('"presence_penalty": -Infinity')),
    ("a number beyond all", _raw('"temperature": 1e999')),
    ("an integer of 5000 digits", _raw('"n": ' + "9" * 5000)),
    ("100,000 brackets", _raw('"stop": ' + "[" * 100_000 + "]" * 100_000)),
    ("100,000 objects", _raw('"x": ' + '{"a":' * 100_000 + "1" + "}" * 100_000)),
    ("65 levels", _raw('"x": ' + "[" * 64 + "]" * 64)),
    ("a key twice", _raw('"n": 1, "n": 2')),
    ("a key twice inside", _raw('"logit_bias": {"1": 1, "1": 2}')),
    ("200,000 keys", ("{" + ",".join(f'"k{i}":0' for i in range(200_000)) + "}").encode()),
    ("a token id written in two ways", _raw('"logit_bias": {"1": 1, "01": 2}')),
    ("2000 biases", _completion(logit_bias={str(i): 1 for i in range(2000)})),
    ("100,000 stop strings", _completion(stop=["x"] * 100_000)),
    ("a comment", _raw('/* x */ "n": 1')),
    ("single quotes", b"{'model': 'storyteller'}"),
]


def poison() -> list[Poison]:
    """All of them."""
    result: list[Poison] = [(name, COMPLETIONS, body, None) for name, body in _RAW]
    for field, values in _VALUES.items():
        for value in values:
            result.append((f"{field}={value!r}"[:60], COMPLETIONS, _completion(**{field: value}), field))
        result.append((f"chat: {field}={values[0]!r}"[:60], CHAT, _chat(**{field: values[0]}), field))
    for path, make, fields in ((COMPLETIONS, _completion, _OF_COMPLETIONS), (CHAT, _chat, _OF_CHAT)):
        for field, values in fields.items():
            result += [(f"{path} {field}={value!r}"[:60], path, make(**{field: value}), field) for value in values]
    result.append(("max_tokens=0", COMPLETIONS, _completion(max_tokens=0), "max_tokens"))
    return result
