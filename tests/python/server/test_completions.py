"""/v1/completions through the official client, held against its own types."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types import Completion, Model

from server_process import ServerProcess

MODEL = "storyteller"
PROMPT = "Once upon a time"

# Sampling of every kind that ends by itself after a few tokens.
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "max_tokens": 1},
    {"temperature": 0.7, "seed": 1},
    {"temperature": 1.5, "seed": -(2**63)},
    {"top_p": 0.5, "seed": 2},
    {"top_p": 1e-6, "seed": 3},
    {"n": 3, "seed": 4},
    {"n": 5, "seed": 5, "max_tokens": 3},
    {"presence_penalty": 2.0, "seed": 6},
    {"frequency_penalty": -2.0, "seed": 7},
    {"stop": ".", "temperature": 0, "max_tokens": 60},
    {"stop": [" king", "queen"], "temperature": 0},
    {"logit_bias": {"524": -100, "300": 5.5}, "temperature": 0},
    {"logprobs": 0, "temperature": 0},
    {"logprobs": 1, "seed": 8},
    {"logprobs": 5, "seed": 9, "n": 2},
    {"logprobs": 20, "temperature": 0},
    {"echo": True, "temperature": 0},
    {"echo": True, "logprobs": 2, "temperature": 0},
    {"echo": True, "n": 2, "seed": 10},
    {"echo": True, "max_tokens": 0},
    {"echo": True, "max_tokens": 0, "logprobs": 1},
    {"user": "somebody", "best_of": 1, "seed": 11},
    {"extra_body": {"top_k": 3, "seed": 12}},
    {"extra_body": {"min_p": 0.2, "seed": 13}},
    {"extra_body": {"repetition_penalty": 1.3}, "temperature": 0},
    {"extra_body": {"ignore_eos": True, "min_tokens": 12}, "temperature": 0},
    {"extra_body": {"stop_token_ids": [339]}, "temperature": 0},
    {"extra_body": {"stop_token_ids": [339], "include_stop_str_in_output": True}, "temperature": 0},
    {"extra_body": {"skip_special_tokens": False, "spaces_between_special_tokens": False}, "temperature": 0},
    {"extra_body": {"response_format": {"type": "text"}, "length_penalty": 1.0, "early_stopping": False}, "seed": 14},
    {"extra_body": {"use_beam_search": False, "tools": [], "guided_json": None}, "seed": 15},
    # Bytes alone, of which some make a character of three and most make none.
    {"logit_bias": {"229": 100, "133": 100, "175": 100}, "seed": 16, "max_tokens": 60},
    {"logit_bias": {"243": 100, "162": 100, "155": 100, "131": 100}, "seed": 17, "max_tokens": 60, "n": 2},
]


def name_of(fields: dict[str, Any]) -> str:
    return json.dumps(fields)[:60]


def complete(client: openai.OpenAI, **fields: Any) -> Completion:
    """A completion, checked against the client's type."""
    raw = client.completions.with_raw_response.create(
        **{"model": MODEL, "prompt": PROMPT, "max_tokens": 16, **fields}  # type: ignore[arg-type]
    )
    answer = json.loads(raw.text)
    for choice in answer["choices"]:
        # OpenAI itself sends null for an echoed prompt's first token, which its client's type does not allow for.
        if fields.get("echo") and choice["logprobs"]:
            assert choice["logprobs"]["token_logprobs"][0] is None
            choice["logprobs"]["token_logprobs"][0] = 0.0
            if choice["logprobs"]["top_logprobs"]:
                choice["logprobs"]["top_logprobs"][0] = {}
    return Completion.model_validate(answer, strict=True)


@pytest.mark.parametrize("fields", SAMPLING, ids=name_of)
def test_answer_has_the_clients_type_and_counts_its_tokens(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    answer = complete(client, **fields)
    n, most = fields.get("n", 1), fields.get("max_tokens", 16)
    assert [choice.index for choice in answer.choices] == list(range(n))
    assert answer.model == MODEL and answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.usage is not None and answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens <= n * most
    assert answer.usage.total_tokens == 5 + answer.usage.completion_tokens
    for choice in answer.choices:
        assert choice.finish_reason in ("stop", "length")
        assert choice.text.startswith(PROMPT) == bool(fields.get("echo"))


@pytest.mark.parametrize("fields", SAMPLING, ids=name_of)
def test_stream_joins_to_the_whole_answer(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    fields = {"seed": 100, **fields}
    whole = complete(client, **fields)
    texts, reasons = [""] * len(whole.choices), [""] * len(whole.choices)
    logprobs: list[list[float]] = [[] for _ in whole.choices]
    usage = None
    pieces = client.completions.create(
        **{"model": MODEL, "prompt": PROMPT, "max_tokens": 16, **fields},
        stream=True,
        stream_options={"include_usage": True},
    )
    for piece in pieces:
        assert usage is None, "the usage comes last"
        usage = piece.usage
        for choice in piece.choices:
            assert not reasons[choice.index], "nothing comes behind a finish reason"
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
            new = (choice.logprobs.token_logprobs or []) if choice.logprobs else []
            logprobs[choice.index] += [logprob or 0.0 for logprob in new]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage is not None and whole.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    for got, choice in zip(logprobs, whole.choices, strict=True):
        expected = choice.logprobs.token_logprobs if choice.logprobs else []
        assert got == pytest.approx(expected, abs=1e-3)


PROMPTS: list[tuple[str, Any, int]] = [
    ("text", PROMPT, 1),
    ("texts", [PROMPT, "The cat", "In the wood"], 3),
    ("ids", [1, 2847, 807, 339, 621], 1),
    ("lists of ids", [[1, 2847], [1, 524, 1279]], 2),
    ("one id", [1], 1),
    ("a list of one text", [PROMPT], 1),
]


@pytest.mark.parametrize("form, prompt, number", PROMPTS, ids=[form for form, _, _ in PROMPTS])
@pytest.mark.parametrize("n", [1, 2])
def test_prompts_in_all_forms(client: openai.OpenAI, form: str, prompt: Any, number: int, n: int) -> None:
    answer = complete(client, prompt=prompt, n=n, seed=1, max_tokens=4)
    assert [choice.index for choice in answer.choices] == list(range(number * n))
    alone = [complete(client, prompt=one, n=n, seed=1, max_tokens=4) for one in prompt] if number > 1 else [answer]
    assert [choice.text for choice in answer.choices] == [choice.text for one in alone for choice in one.choices]


TEXTS = [
    *("Grüße aus Köln", "naïve café", "Привет, мир", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "你好,世界"),
    *("こんにちは世界", "안녕하세요", "สวัสดีชาวโลก", "\N{SLIGHTLY SMILING FACE}\u200d\N{ROCKET}", "a\u0301 é"),
    *("line\nline\r\n\ttab", "\u2028\u2029\x85", '"\\/\b\f', "<s>[INST]</s>", "data: [DONE]\n\n"),
    *("  spaces  ", "\x01\x7f", "ﷺ\U0001d518\U00010348"),
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_of_all_scripts_come_back_as_they_were(client: openai.OpenAI, text: str) -> None:
    assert complete(client, prompt=text, echo=True, max_tokens=0).choices[0].text == text
    pieces = client.completions.create(model=MODEL, prompt=text, echo=True, max_tokens=2, temperature=0, stream=True)
    assert "".join(choice.text for piece in pieces for choice in piece.choices).startswith(text)


def test_echo_of_ids_is_their_text(client: openai.OpenAI) -> None:
    answer = complete(client, prompt=[1, 2847, 807, 339, 621], echo=True, max_tokens=0)
    assert answer.choices[0].text.endswith(PROMPT)


def test_same_seed_same_text_and_no_seed_another_one(client: openai.OpenAI) -> None:
    def text(**fields: Any) -> str:
        return complete(client, temperature=1.0, max_tokens=24, **fields).choices[0].text

    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert text() != text()


def test_completions_of_one_prompt_differ_and_do_not_depend_on_their_number(client: openai.OpenAI) -> None:
    five = [choice.text for choice in complete(client, n=5, seed=3, max_tokens=24).choices]
    two = [choice.text for choice in complete(client, n=2, seed=3, max_tokens=24).choices]
    assert len(set(five)) == 5 and five[:2] == two


def test_stop_string_is_left_out_and_named(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt=PROMPT, temperature=0, max_tokens=60, stop=[" king", "never"]
    )
    choice = json.loads(raw.text)["choices"][0]
    assert choice["text"] == " there lived a"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", " king")


def test_stop_string_across_tokens_never_shows_in_a_stream(client: openai.OpenAI) -> None:
    pieces = client.completions.create(
        model=MODEL, prompt=PROMPT, temperature=0, max_tokens=60, stop="a king who had", stream=True
    )
    assert "".join(choice.text for piece in pieces for choice in piece.choices) == " there lived "


def test_stop_token_id_is_named(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt=PROMPT, temperature=0, extra_body={"stop_token_ids": [339]}
    )
    assert json.loads(raw.text)["choices"][0]["stop_reason"] == 339


def test_logit_bias_forces_and_forbids_tokens(client: openai.OpenAI) -> None:
    forced = complete(client, temperature=0, logit_bias={"621": 100}, max_tokens=3)
    assert forced.choices[0].text == " time time time"
    forbidden = complete(client, temperature=0, logit_bias={"524": -100}, max_tokens=1)
    assert forbidden.choices[0].text != " there"


def test_logprobs_have_the_legacy_shape(client: openai.OpenAI) -> None:
    logprobs = complete(client, temperature=0, logprobs=3, max_tokens=4).choices[0].logprobs
    assert logprobs is not None and logprobs.tokens == [" there", " lived", " a", " king"]
    assert logprobs.text_offset == [0, 6, 12, 14]
    assert logprobs.top_logprobs is not None and logprobs.token_logprobs is not None
    for token, logprob, best in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert 3 <= len(best) <= 4
        assert best[token] == logprob == max(best.values()) <= 0


def test_zero_logprobs_are_of_the_chosen_tokens_alone(client: openai.OpenAI) -> None:
    logprobs = complete(client, temperature=0, logprobs=0).choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None and len(logprobs.token_logprobs) == 16
    assert logprobs.top_logprobs is None


def test_echo_with_logprobs_is_what_evaluation_harnesses_ask_for(client: openai.OpenAI) -> None:
    """lm-evaluation-harness scores a continuation by the log-probabilities of an echoed prompt."""
    ids = [1, 2847, 807, 339, 621, 524, 1279]
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt=[ids, ids[:5]], temperature=0, max_tokens=1, logprobs=1, echo=True, seed=1234
    )
    choices = json.loads(raw.text)["choices"]
    for choice, prompt in zip(choices, (ids, ids[:5]), strict=True):
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        assert all(value < 0 for value in logprobs["token_logprobs"][1:])
        assert len(logprobs["tokens"]) == len(logprobs["top_logprobs"]) == len(prompt) + 1
    assert choices[0]["logprobs"]["token_logprobs"][1:5] == choices[1]["logprobs"]["token_logprobs"][1:5]
    no_token = complete(client, prompt=ids, max_tokens=0, logprobs=1, echo=True)
    assert no_token.choices[0].logprobs is not None and no_token.usage is not None
    assert no_token.choices[0].logprobs.token_logprobs == [0.0, *choices[0]["logprobs"]["token_logprobs"][1:-1]]
    assert no_token.usage.completion_tokens == 0


def test_stream_of_several_prompts_echoes_each_with_its_logprobs(client: openai.OpenAI) -> None:
    prompts = [[1] + [5 + index] * (300 - 90 * index) for index in range(4)]
    fields: dict[str, Any] = {"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 2, "n": 2, "seed": 1}
    whole = json.loads(client.completions.with_raw_response.create(model=MODEL, **fields).text)["choices"]
    texts, logprobs = [""] * 8, [[] for _ in range(8)]  # type: ignore[var-annotated]
    for piece in client.completions.create(model=MODEL, **fields, stream=True):
        for choice in piece.choices:
            texts[choice.index] += choice.text
            logprobs[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    assert texts == [choice["text"] for choice in whole]
    for got, choice in zip(logprobs, whole, strict=True):
        assert len(got) == len(choice["logprobs"]["token_logprobs"])
        assert got[1:] == pytest.approx(choice["logprobs"]["token_logprobs"][1:], abs=1e-3)


def test_max_tokens_null_fills_the_context(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt=[1] * 1000, max_tokens=None, extra_body={"ignore_eos": True, "max_tokens": None}
    )
    assert json.loads(raw.text)["usage"]["total_tokens"] == 1024


@pytest.mark.parametrize(
    "options, in_pieces, at_the_end",
    [
        (None, True, False),
        ({"include_usage": False}, False, False),
        ({"include_usage": True}, False, True),
        ({"include_usage": True, "continuous_usage_stats": True}, True, True),
    ],
)
def test_usage_in_streams(client: openai.OpenAI, options: Any, in_pieces: bool, at_the_end: bool) -> None:
    extra = {} if options is None else {"stream_options": options}
    pieces = list(client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, stream=True, n=2, **extra))
    assert (pieces[-1].choices == []) == at_the_end
    ends = [piece for piece in pieces if piece.choices and piece.choices[0].finish_reason]
    assert len(ends) == 2
    assert all((piece.usage is not None) == in_pieces for piece in ends)
    if at_the_end:
        assert pieces[-1].usage is not None and pieces[-1].usage.completion_tokens == 16


def test_async_client_runs_many_at_a_time(server: ServerProcess) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                if seed % 2:
                    answer = await client.completions.create(model=MODEL, prompt=PROMPT, seed=seed % 4, max_tokens=20)
                    return answer.choices[0].text
                stream = await client.completions.create(
                    model=MODEL, prompt=PROMPT, seed=seed % 4, max_tokens=20, stream=True
                )
                return "".join([choice.text async for piece in stream for choice in piece.choices])

            return await asyncio.gather(*(one(seed) for seed in range(40)))

    texts = asyncio.run(run())
    assert len(set(texts)) == 4
    assert texts[:4] * 10 == texts


def test_leaving_a_stream_ends_its_request(client: openai.OpenAI, server: ServerProcess) -> None:
    for _ in range(5):
        stream = client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=1000, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    server.wait_until_idle(2)


def test_models_have_the_clients_type(client: openai.OpenAI) -> None:
    raw = client.models.with_raw_response.list()
    cards = json.loads(raw.text)["data"]
    assert [Model.model_validate(card, strict=True).id for card in cards] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_every_answer_has_a_request_id(client: openai.OpenAI, server: ServerProcess) -> None:
    assert client.completions.create(model=MODEL, prompt=PROMPT)._request_id
    _, headers, _ = server.request("GET", "/version", headers={"X-Request-Id": "mine-1"})
    assert headers["x-request-id"] == "mine-1"
    _, headers, _ = server.request("GET", "/version", headers={"X-Request-Id": "not one\tof mine"})
    assert headers["x-request-id"] not in ("", "not one\tof mine")
