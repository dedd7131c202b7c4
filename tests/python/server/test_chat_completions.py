"""/v1/chat/completions through the official client, held against its own types."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server_process import CHAT_TEMPLATE, ServerProcess, events, running_server

MODEL = "stories"
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me a story."}]

SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "max_tokens": 1},
    {"temperature": 0, "max_completion_tokens": 7, "max_tokens": 3},
    {"seed": 1},
    {"n": 2, "seed": 2},
    {"n": 4, "seed": 3, "top_p": 0.9},
    {"logprobs": True, "temperature": 0},
    {"logprobs": True, "top_logprobs": 0, "temperature": 0},
    {"logprobs": True, "top_logprobs": 3, "seed": 4, "n": 2},
    {"logprobs": True, "top_logprobs": 20, "seed": 5, "temperature": 1.5},
    {"stop": [".", "!"], "temperature": 0},
    {"presence_penalty": 1.0, "frequency_penalty": 1.0, "seed": 6},
    {"logit_bias": {"410": 3.0}, "seed": 7},
    {"response_format": {"type": "text"}, "seed": 8},
    {"tools": [], "seed": 8},
    {"tool_choice": "none", "seed": 9},
    {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "seed": 10},
    {"modalities": ["text"], "parallel_tool_calls": True, "seed": 11},
    {"extra_body": {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 12}},
    {"extra_body": {"ignore_eos": True, "min_tokens": 16}, "seed": 13},
    {"extra_body": {"add_generation_prompt": False}, "seed": 14},
    {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}, "seed": 15},
    # Byte tokens, of which few make whole characters.
    {"logit_bias": {"229": 100, "133": 100, "175": 100}, "seed": 16, "max_tokens": 40},
    {"logit_bias": {"198": 100, "172": 100, "163": 100}, "seed": 17, "max_tokens": 40, "n": 2},
]


def name_of(fields: dict[str, Any]) -> str:
    return json.dumps(fields)[:60]


def chat(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    """An answer, checked against the client's type; the role of this server's answers is no role of OpenAI's."""
    raw = client.chat.completions.with_raw_response.create(
        **{"model": MODEL, "messages": MESSAGES, "max_tokens": 16, **fields}  # type: ignore[arg-type]
    )
    answer = json.loads(raw.text)
    for choice in answer["choices"]:
        assert choice["message"]["role"] in ("bard", "user")
        choice["message"]["role"] = "assistant"
    return ChatCompletion.model_validate(answer, strict=True)


@pytest.mark.parametrize("fields", SAMPLING, ids=name_of)
def test_answer_has_the_clients_type(stories_client: openai.OpenAI, fields: dict[str, Any]) -> None:
    answer = chat(stories_client, **fields)
    n = fields.get("n", 1)
    most = fields.get("max_completion_tokens", fields.get("max_tokens", 16))
    assert [choice.index for choice in answer.choices] == list(range(n))
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.usage is not None and 0 < answer.usage.completion_tokens <= n * most
    for choice in answer.choices:
        assert isinstance(choice.message.content, str) and choice.finish_reason in ("stop", "length")
        assert (choice.logprobs is not None) == bool(fields.get("logprobs"))


@pytest.mark.parametrize("fields", SAMPLING, ids=name_of)
def test_stream_joins_to_the_whole_answer(stories_client: openai.OpenAI, fields: dict[str, Any]) -> None:
    fields = {"seed": 100, **fields}
    whole = chat(stories_client, **fields)
    raw = stories_client.chat.completions.with_raw_response.create(
        **{"model": MODEL, "messages": MESSAGES, "max_tokens": 16, **fields},
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, reasons, tokens = ({i: [] for i in range(fields.get("n", 1))} for _ in range(3))  # type: ignore[var-annotated]
    for event in events(raw.http_response.read()):
        for choice in event["choices"]:
            if "role" in choice["delta"]:
                assert not texts[choice["index"]], "the role comes first"
                choice["delta"]["role"] = "assistant"
            texts[choice["index"]].append(choice["delta"]["content"])
            reasons[choice["index"]] += [choice["finish_reason"]] if choice["finish_reason"] else []
            tokens[choice["index"]] += choice["logprobs"]["content"] if choice["logprobs"] else []
        piece = ChatCompletionChunk.model_validate(event, strict=True)
    assert piece.usage is not None and whole.usage is not None
    assert piece.usage.completion_tokens == whole.usage.completion_tokens
    for choice in whole.choices:
        assert "".join(texts[choice.index]) == choice.message.content
        assert reasons[choice.index] == [choice.finish_reason]
        expected = [] if choice.logprobs is None else [one.token for one in choice.logprobs.content or []]
        assert [one["token"] for one in tokens[choice.index]] == expected


def test_logprobs_have_todays_shape(stories_client: openai.OpenAI) -> None:
    logprobs = chat(stories_client, temperature=0, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None and len(logprobs.content) == 16
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == max(one.logprob for one in token.top_logprobs) == token.logprob
        assert token.bytes == list(token.token.encode())


def test_bytes_of_a_token_that_is_part_of_a_character_are_not_made_up(stories_client: openai.OpenAI) -> None:
    answer = chat(stories_client, logit_bias={"229": 100}, logprobs=True, max_tokens=2, temperature=0)
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    assert [token.bytes for token in answer.choices[0].logprobs.content] == [None, None]
    assert answer.choices[0].message.content == "\N{REPLACEMENT CHARACTER}" * 2


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Tell me a story."}],
        [{"type": "text", "text": "Tell me"}, {"type": "text", "text": "a story."}],
        "Tell me a story.",
        "Erzähl mir 你好 🙂",
    ],
)
def test_contents_are_texts_or_parts(stories_client: openai.OpenAI, content: Any) -> None:
    answer = chat(stories_client, messages=[{"role": "user", "content": content}], temperature=0)
    joined = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
    alike = chat(stories_client, messages=[{"role": "user", "content": joined}], temperature=0)
    assert answer.choices[0].message.content == alike.choices[0].message.content


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be short."}, *MESSAGES],
        [*MESSAGES, {"role": "assistant", "content": "Once"}, {"role": "user", "content": "Go on."}],
        [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": "?"}],
        [{"role": "user", "content": "Hi", "name": "Ann"}],
        [{"role": "developer", "content": "Hi"}],
        [{"role": "user", "content": ""}],
    ],
)
def test_conversations_of_many_kinds(stories_client: openai.OpenAI, messages: Any) -> None:
    assert chat(stories_client, messages=messages, temperature=0).choices[0].message.content


def test_max_tokens_is_by_default_what_fits(stories_client: openai.OpenAI, stories_server: ServerProcess) -> None:
    card = json.loads(stories_server.request("GET", "/v1/models")[2])["data"][0]
    answer = chat(stories_client, max_tokens=None, temperature=0, extra_body={"ignore_eos": True})
    assert answer.usage is not None and answer.usage.total_tokens == card["max_model_len"]


def test_model_has_all_its_names(stories_client: openai.OpenAI) -> None:
    assert [card.id for card in stories_client.models.list()] == ["stories", "second-name"]
    assert chat(stories_client, model="second-name").model == "stories"


def test_echo_begins_with_the_last_message_of_the_same_role(stories_client: openai.OpenAI) -> None:
    messages = [*MESSAGES, {"role": "bard", "content": "Once upon"}]
    answer = chat(stories_client, messages=messages, extra_body={"echo": True}, temperature=0)
    assert (answer.choices[0].message.content or "").startswith("Once upon")
    stream = stories_client.chat.completions.create(
        model=MODEL, messages=messages, stream=True, extra_body={"echo": True}, max_tokens=2
    )
    contents = [piece.choices[0].delta.content for piece in stream]
    assert contents[:2] == ["", "Once upon"]


def test_many_conversations_at_a_time(stories_server: ServerProcess) -> None:
    async def run() -> list[str]:
        base_url = stories_server.url + "/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=MESSAGES, seed=seed % 3, max_tokens=20, stream=True
                )
                return "".join([choice.delta.content or "" async for piece in stream for choice in piece.choices])

            return await asyncio.gather(*(one(seed) for seed in range(30)))

    texts = asyncio.run(run())
    assert len(set(texts)) == 3 and texts[:3] * 10 == texts


def test_model_without_a_template_says_so(tmp_path: Path) -> None:
    with running_server(tmp_path, "--kv-cache-memory-bytes", "4M") as server:
        status, answer = server.post("/v1/chat/completions", {"model": "storyteller", "messages": MESSAGES})
    assert status == 400 and "--chat-template" in answer["error"]["message"]


def test_template_from_a_file_and_its_errors(tmp_path: Path, run_quire: Any) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(CHAT_TEMPLATE)
    with running_server(tmp_path, "--kv-cache-memory-bytes", "4M", "--chat-template", str(path)) as server:
        body = {"model": "storyteller", "messages": MESSAGES, "max_tokens": 4}
        assert server.post("/v1/chat/completions", body)[0] == 200
    for template, wanted in (("{% for", "line 1"), ("no/such/file", "no/such/file")):
        result = run_quire("serve", "--port", "0", "--chat-template", template)
        assert result.returncode in (1, 2) and wanted in result.stderr and result.stderr.count("\n") == 1


TEMPLATES = {
    "endless": "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}",
    "huge": "{{ 'x' * 10**9 }}",
    "refusing": "{{ raise_exception('Not with me.') }}",
    "failing": "{{ messages[0].nothing.at_all }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_hostile_templates_cost_a_request_and_no_more(tmp_path: Path, name: str) -> None:
    words = ("--kv-cache-memory-bytes", "4M", "--chat-template", TEMPLATES[name])
    with running_server(tmp_path, *words) as server:
        status, answer = server.post("/v1/chat/completions", {"model": "storyteller", "messages": MESSAGES})
        assert status == 400 and answer["error"]["param"] == "messages"
        assert server.post("/v1/completions", {"model": "storyteller", "prompt": "Once"})[0] == 200
