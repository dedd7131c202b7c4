"""SamplingParams against the table of vLLM 0.4.0: names, order, defaults, ranges, messages."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from quire import SamplingParams, _core
from quire.sampling import SamplingType, core_sampling

# In the order of vLLM's constructor.
DEFAULTS: dict[str, Any] = {
    "n": 1,
    "best_of": 1,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "seed": None,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "early_stopping": False,
    "stop": [],
    "stop_token_ids": [],
    "include_stop_str_in_output": False,
    "ignore_eos": False,
    "max_tokens": 16,
    "min_tokens": 0,
    "logprobs": None,
    "prompt_logprobs": None,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "logits_processors": None,
}

NAN, INFINITY = float("nan"), float("inf")

VALID: list[dict[str, Any]] = [
    {"n": 1},
    {"n": 128},
    {"best_of": 5},
    {"presence_penalty": -2},
    {"presence_penalty": 2.0},
    {"frequency_penalty": -2.0},
    {"frequency_penalty": 2.0},
    {"repetition_penalty": 0.001},
    {"repetition_penalty": 2.0},
    {"temperature": 0},
    {"temperature": 0.0},
    {"temperature": 100.0},
    {"top_p": 0.001},
    {"top_p": 1},
    {"top_k": 1},
    {"top_k": 2**31 - 1},
    {"min_p": 0},
    {"min_p": 1.0},
    {"seed": -1},
    {"seed": 2**63 - 1},
    {"stop": "a"},
    {"stop": ["a", "b"]},
    {"stop": ["x"] * 16},
    {"stop": "x" * 4096},
    {"stop_token_ids": [0, 5]},
    {"stop_token_ids": range(128)},
    {"max_tokens": None},
    {"max_tokens": 1},
    {"min_tokens": 16},
    {"max_tokens": None, "min_tokens": 100},
    {"logprobs": 0},
    {"logprobs": 20},
    {"prompt_logprobs": 0},
    {"logit_bias": {5: -100, 7: 1.5}},
    {"use_beam_search": True, "best_of": 2, "temperature": 0},
    {"use_beam_search": True, "best_of": 2, "temperature": 0, "early_stopping": "never", "length_penalty": 0.5},
    {"logits_processors": [len]},
]

# (arguments, name that the message must hold, value that the message must hold)
INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 0}, "n", "0"),
    ({"n": -1}, "n", "-1"),
    ({"n": 129}, "n", "129"),
    ({"n": 10**30}, "n", str(10**30)),
    ({"n": True}, "n", "True"),
    ({"n": 1.0}, "n", "1.0"),
    ({"n": "1"}, "n", "'1'"),
    ({"n": None}, "n", "None"),
    ({"n": 3, "best_of": 2}, "best_of", "n=3 and best_of=2"),
    ({"best_of": 0}, "best_of", "best_of=0"),
    ({"best_of": 2.5}, "best_of", "2.5"),
    ({"presence_penalty": 2.01}, "presence_penalty", "2.01"),
    ({"presence_penalty": -3}, "presence_penalty", "-3"),
    ({"presence_penalty": NAN}, "presence_penalty", "nan"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "-2.5"),
    ({"frequency_penalty": INFINITY}, "frequency_penalty", "inf"),
    ({"repetition_penalty": 0}, "repetition_penalty", "0"),
    ({"repetition_penalty": 2.1}, "repetition_penalty", "2.1"),
    ({"repetition_penalty": "1"}, "repetition_penalty", "'1'"),
    ({"temperature": -0.1}, "temperature", "-0.1"),
    ({"temperature": NAN}, "temperature", "nan"),
    ({"temperature": INFINITY}, "temperature", "inf"),
    ({"temperature": 1e300}, "temperature", "1e+300"),
    ({"temperature": True}, "temperature", "True"),
    ({"temperature": "0.8"}, "temperature", "'0.8'"),
    ({"temperature": None}, "temperature", "None"),
    ({"top_p": 0}, "top_p", "0"),
    ({"top_p": 1.1}, "top_p", "1.1"),
    ({"top_p": NAN}, "top_p", "nan"),
    ({"top_k": 0}, "top_k", "0"),
    ({"top_k": -2}, "top_k", "-2"),
    ({"top_k": 5.0}, "top_k", "5.0"),
    ({"min_p": -0.1}, "min_p", "-0.1"),
    ({"min_p": 1.1}, "min_p", "1.1"),
    ({"seed": 1.5}, "seed", "1.5"),
    ({"seed": True}, "seed", "True"),
    ({"seed": 2**63}, "seed", str(2**63)),
    ({"use_beam_search": 1}, "use_beam_search", "1"),
    ({"use_beam_search": True, "temperature": 0}, "best_of", "1"),
    ({"use_beam_search": True, "best_of": 2}, "temperature", "1.0"),
    ({"use_beam_search": True, "best_of": 2, "temperature": 0, "top_p": 0.5}, "top_p", "0.5"),
    ({"use_beam_search": True, "best_of": 2, "temperature": 0, "top_k": 5}, "top_k", "5"),
    ({"early_stopping": True}, "early_stopping", "True"),
    ({"early_stopping": "never"}, "early_stopping", "'never'"),
    ({"early_stopping": "sometimes"}, "early_stopping", "'sometimes'"),
    ({"length_penalty": 1.1}, "length_penalty", "1.1"),
    ({"stop": 5}, "stop", "5"),
    ({"stop": [5]}, "stop[0]", "5"),
    ({"stop": ["a", ""]}, "stop", "['a', '']"),
    ({"stop": ["x"] * 17}, "stop", "17"),
    ({"stop": "x" * 4097}, "stop", "4097"),
    ({"stop": "\ud800"}, "stop[0]", "surrogate"),
    ({"stop_token_ids": 5}, "stop_token_ids", "5"),
    ({"stop_token_ids": "5"}, "stop_token_ids", "'5'"),
    ({"stop_token_ids": [1, 2.0]}, "stop_token_ids[1]", "2.0"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "-1"),
    ({"stop_token_ids": [2**31]}, "stop_token_ids[0]", str(2**31)),
    ({"stop_token_ids": range(129)}, "stop_token_ids", "129"),
    ({"include_stop_str_in_output": "yes"}, "include_stop_str_in_output", "'yes'"),
    ({"ignore_eos": None}, "ignore_eos", "None"),
    ({"max_tokens": 0}, "max_tokens", "0"),
    ({"max_tokens": -1}, "max_tokens", "-1"),
    ({"max_tokens": 2**63}, "max_tokens", str(2**63)),
    ({"max_tokens": "16"}, "max_tokens", "'16'"),
    ({"min_tokens": -1}, "min_tokens", "-1"),
    ({"min_tokens": 17}, "min_tokens", "17"),
    ({"logprobs": -1}, "logprobs", "-1"),
    ({"logprobs": True}, "logprobs", "True"),
    ({"prompt_logprobs": -1}, "prompt_logprobs", "-1"),
    ({"skip_special_tokens": 1}, "skip_special_tokens", "1"),
    ({"spaces_between_special_tokens": "no"}, "spaces_between_special_tokens", "'no'"),
    ({"logits_processors": [1]}, "logits_processors", "[1]"),
    ({"logits_processors": len}, "logits_processors", "len"),
    ({"logit_bias": [1]}, "logit_bias", "[1]"),
    ({"logit_bias": {"1": 1.0}}, "logit_bias", "'1'"),
    ({"logit_bias": {-1: 1.0}}, "logit_bias", "-1"),
    ({"logit_bias": {1: NAN}}, "logit_bias[1]", "nan"),
    ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "logit_bias", "1025"),
    ({"n": 2, "temperature": 0}, "best_of", "n=2"),
]


def test_fields_and_defaults_are_those_of_vllm_and_our_own_come_after_them() -> None:
    params = SamplingParams()
    assert [entry.name for entry in dataclasses.fields(params)] == [*DEFAULTS, "logit_bias", "text_continues_prompt"]
    assert {name: getattr(params, name) for name in DEFAULTS} == DEFAULTS
    assert params.logit_bias is None
    assert params.text_continues_prompt is False


@pytest.mark.parametrize("arguments", VALID, ids=str)
def test_values_in_range_are_taken(arguments: dict[str, Any]) -> None:
    params = SamplingParams(**arguments)
    for name, value in arguments.items():
        expected = {"stop": [value] if isinstance(value, str) else value}.get(name, value)
        assert getattr(params, name) == (list(expected) if isinstance(expected, range) else expected)


@pytest.mark.parametrize(("arguments", "name", "value"), INVALID, ids=lambda part: str(part)[:60])
def test_values_out_of_range_raise_value_error_naming_field_and_value(
    arguments: dict[str, Any], name: str, value: str
) -> None:
    with pytest.raises(ValueError) as caught:
        SamplingParams(**arguments)
    message = str(caught.value)
    assert message.startswith(name)
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize("arguments", VALID, ids=str)
def test_the_engine_agrees_with_what_python_accepts(arguments: dict[str, Any]) -> None:
    try:
        core = core_sampling(SamplingParams(**arguments))
    except NotImplementedError:
        return
    core.validate()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0.0),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("top_k", 0),
        ("min_p", 1.5),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("stop", ["x" * 4097]),
        ("stop_token_ids", list(range(129))),
        ("max_tokens", 0),
        ("min_tokens", 17),
        ("logprobs", -1),
        ("prompt_logprobs", -1),
        ("logit_bias", [(index, 1.0) for index in range(1025)]),
    ],
)
def test_the_engine_refuses_what_python_refuses(name: str, value: Any) -> None:
    core = _core.SamplingParams()
    core.validate()
    setattr(core, name, value)
    with pytest.raises(ValueError, match=name):
        core.validate()


def test_numpy_numbers_are_numbers() -> None:
    params = SamplingParams(temperature=np.float32(0.5), max_tokens=np.int64(3), stop_token_ids=np.array([1, 2]))
    assert (params.temperature, params.max_tokens, params.stop_token_ids) == (0.5, 3, [1, 2])
    assert type(params.max_tokens) is int


def test_greedy_resets_truncation() -> None:
    params = SamplingParams(temperature=0.000001, top_p=0.5, top_k=5, min_p=0.1)
    assert (params.top_p, params.top_k, params.min_p) == (1.0, -1, 0.0)


def test_sampling_type_has_four_values() -> None:
    assert SamplingParams(temperature=0).sampling_type is SamplingType.GREEDY
    assert SamplingParams().sampling_type is SamplingType.RANDOM
    assert SamplingParams(seed=0).sampling_type is SamplingType.RANDOM_SEED
    beam = SamplingParams(use_beam_search=True, best_of=2, temperature=0)
    assert beam.sampling_type is SamplingType.BEAM


def test_clone_is_deep_but_shares_logits_processors() -> None:
    def processor(ids: list[int], logits: Any) -> Any:
        return logits

    params = SamplingParams(stop=["a"], logits_processors=[processor])
    copy = params.clone()
    assert copy == params
    assert copy.stop is not params.stop
    assert copy.logits_processors is not None
    assert copy.logits_processors[0] is processor


def test_equality_compares_fields_and_repr_shows_all_of_them() -> None:
    assert SamplingParams(top_k=3) == SamplingParams(top_k=3)
    assert SamplingParams(top_k=3) != SamplingParams(top_k=4)
    text = repr(SamplingParams(top_k=3))
    assert text.startswith("SamplingParams(n=1, best_of=1, ")
    for name in DEFAULTS:
        assert f"{name}=" in text


def test_params_can_be_pickled() -> None:
    params = SamplingParams(stop="x", seed=4)
    assert pickle.loads(pickle.dumps(params)) == params


def test_fields_set_later_are_checked_when_used() -> None:
    params = SamplingParams()
    params.temperature = -1.0
    with pytest.raises(ValueError, match="temperature must be non-negative, got -1.0"):
        core_sampling(params)


def test_use_does_not_change_the_callers_params() -> None:
    params = SamplingParams()
    params.temperature, params.top_k = 0.0, 5
    core_sampling(params)
    assert params.top_k == 5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"best_of": 2}, "best_of"),
        ({"use_beam_search": True, "best_of": 2, "temperature": 0}, "use_beam_search"),
        ({"logits_processors": [len]}, "logits_processors"),
    ],
)
def test_what_is_not_offered_says_so_in_one_line(arguments: dict[str, Any], name: str) -> None:
    params = SamplingParams(**arguments)
    with pytest.raises(NotImplementedError, match=name) as caught:
        core_sampling(params)
    assert "\n" not in str(caught.value)


def test_unknown_parameters_are_type_errors() -> None:
    with pytest.raises(TypeError, match="max_new_tokens"):
        SamplingParams(max_new_tokens=5)  # type: ignore[call-arg]
