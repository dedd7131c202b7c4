"""Parts of the server by themselves: admission, watchdog, JSON, events, errors, bodies, and an engine that is stuck."""

import asyncio
import json
from typing import Any

import pytest

from quire.async_streams import AsyncSubmission, EngineStreams
from quire.server.admission import Admission
from quire.server.errors import ApiError, from_value_error
from quire.server.events import Events, json_text
from quire.server.logprobs import ChatLogprobs, LegacyLogprobs
from quire.server.reading import ClientGone, read_body
from quire.server.strict_json import MAX_DEPTH, MAX_VALUES, parse_object
from quire.server.watchdog import Watchdog


def refusal(call: Any, *arguments: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    return caught.value


class TestAdmission:
    def test_as_many_as_there_are_places_and_no_more(self) -> None:
        house = Admission(max_requests=2, max_tokens=100)
        first, second = house.admit(), house.admit()
        error = refusal(house.admit)
        assert (error.status, error.retry_after) == (429, 1)
        first.release()
        first.release()
        assert house.num_requests == 1
        house.admit().release()
        second.release()
        assert (house.num_requests, house.num_tokens) == (0, 0)

    def test_prompts_of_one_request_are_counted_each(self) -> None:
        house = Admission(max_requests=4, max_tokens=100)
        ticket = house.admit()
        ticket.hold(4, 10)
        assert refusal(house.admit).status == 429
        ticket.release()
        ticket = house.admit()
        assert (refusal(ticket.hold, 5, 10).status, house.num_requests) == (400, 1)
        ticket.release()

    @pytest.mark.parametrize("tokens, fits", [(50, True), (51, False)])
    def test_tokens_are_bounded_to_the_last_one(self, tokens: int, fits: bool) -> None:
        house = Admission(max_requests=4, max_tokens=100)
        house.admit().hold(1, 50)
        ticket = house.admit()
        if fits:
            ticket.hold(1, tokens)
        else:
            assert refusal(ticket.hold, 1, tokens).status == 429
            ticket.release()
            assert (house.num_requests, house.num_tokens) == (1, 50)

    def test_who_is_alone_may_have_more(self) -> None:
        Admission(max_requests=4, max_tokens=100).admit().hold(1, 1000)

    def test_closed_house_empties(self) -> None:
        async def run() -> None:
            house = Admission(max_requests=4, max_tokens=100)
            ticket = house.admit()
            house.close()
            assert refusal(house.admit).status == 503
            waiting = asyncio.create_task(house.wait_until_empty())
            await asyncio.sleep(0)
            assert not waiting.done()
            ticket.release()
            await asyncio.wait_for(waiting, 1)

        asyncio.run(run())


class TestWatchdog:
    def watchdog(self, timeout: float = 30.0) -> Watchdog:
        self.steps, self.work, self.now = 0, False, 0.0
        return Watchdog(lambda: self.steps, lambda: self.work, timeout, lambda: self.now)

    def test_idle_engine_is_never_stuck(self) -> None:
        watchdog = self.watchdog()
        self.now = 1000.0
        assert not watchdog.is_stuck()

    def test_engine_without_steps_is_stuck_after_the_timeout_and_not_before(self) -> None:
        watchdog = self.watchdog()
        self.now = 500.0
        assert not watchdog.is_stuck()
        self.work, self.now = True, 530.0
        assert not watchdog.is_stuck()
        self.now = 530.1
        assert watchdog.is_stuck()
        self.steps = 1
        assert not watchdog.is_stuck()

    def test_no_timeout_no_judgement(self) -> None:
        watchdog = self.watchdog(timeout=0)
        self.work, self.now = True, 1e9
        assert not watchdog.is_stuck()


class TestJson:
    @pytest.mark.parametrize("depth, fits", [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False)])
    @pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
    def test_depth_is_bounded(self, pair: tuple[str, str], depth: int, fits: bool) -> None:
        inner = "1" if pair[0] != "[" else ""
        text = '{"x":' + pair[0] * (depth - 1) + inner + pair[1] * (depth - 1) + "}"
        if fits:
            parse_object(text.encode())
        else:
            assert "deeper" in refusal(parse_object, text.encode()).message

    def test_brackets_in_texts_are_not_depth(self) -> None:
        assert parse_object(b'{"x": "' + b"[{" * 1000 + b'"}')["x"] == "[{" * 1000

    @pytest.mark.parametrize("item", ["1", "[]", '"x"', "{}"])
    def test_number_of_values_is_bounded(self, item: str) -> None:
        body = f'{{"x": [{",".join([item] * MAX_VALUES)}]}}'.encode()
        assert "values" in refusal(parse_object, body).message

    def test_texts_may_have_any_number_of_marks(self) -> None:
        text = '[{,"' * MAX_VALUES
        assert parse_object(json.dumps({"x": text}).encode())["x"] == text

    def test_key_twice_is_named(self) -> None:
        error = refusal(parse_object, b'{"a": {"n": 1, "m": 2, "n": 3}}')
        assert error.param == "n" and "twice" in error.message


class TestEvents:
    @pytest.mark.parametrize(
        "text", ["plain", 'quotes " and \\', "line\nline\r\t\0\x1f", "Grüße 你好 \U0001f642", "\u2028\u2029\x85", ""]
    )
    def test_text_is_one_line_of_json_for_every_reader_of_lines(self, text: str) -> None:
        made = json_text(text)
        assert json.loads(made) == text
        assert len(made.decode().splitlines()) == 1

    @pytest.mark.parametrize("chat", [False, True])
    @pytest.mark.parametrize("with_usage", [False, True])
    def test_all_kinds_are_json(self, chat: bool, with_usage: bool) -> None:
        made = Events({"id": "x", "object": "y", "created": 1, "model": 'm"\u2028'}, chat, with_usage)
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        for event in (
            made.piece(3, 'a"\n'),
            made.full_piece(3, 'a"\n', {"tokens": ["\u2028"]}, "stop", "\u2028", usage),
            made.role(3, "assistant"),
            made.last_usage(usage),
        ):
            assert event.startswith(b"data: ") and event.endswith(b"\n\n")
            content = json.loads(event[6:])
            assert content["model"] == 'm"\u2028'
            assert ("usage" in content) or not with_usage
        piece = json.loads(made.piece(3, 'a"\n')[6:])["choices"][0]
        assert piece["index"] == 3 and (piece["delta"]["content"] if chat else piece["text"]) == 'a"\n'


class TestErrors:
    def test_field_of_an_engine_error_is_found(self) -> None:
        names = ("n", "stop", "stop_token_ids", "prompt_token_ids", "logit_bias")
        message = "[request] token id out of the vocabulary: stop_token_ids=9999, expected=[0, 512)"
        assert from_value_error(ValueError(message), names).param == "stop_token_ids"
        message = "[request] token id out of the vocabulary: prompt_token_ids[3]=9999, expected=[0, 512)"
        assert from_value_error(ValueError(message), names, {"prompt_token_ids": "prompt"}).param == "prompt"
        assert from_value_error(ValueError("n must be at least 1, got 0."), names).param == "n"
        assert from_value_error(ValueError("something else"), names).param is None

    def test_message_is_one_line_and_not_long(self) -> None:
        error = from_value_error(ValueError("n must\nbe " + "x" * 10_000), ("n",))
        assert "\n" not in error.message and len(error.message) < 400


class TestBodies:
    def read(self, messages: list[dict[str, Any]], most: int = 10, seconds: float = 0.05, length: str = "") -> bytes:
        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await asyncio.sleep(10)
            raise AssertionError

        headers = [(b"content-length", length.encode())] if length else []
        return asyncio.run(read_body({"headers": headers}, receive, most, seconds))

    def part(self, body: bytes, more: bool) -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": more}

    def test_parts_are_joined(self) -> None:
        assert self.read([self.part(b"12345", True), self.part(b"", True), self.part(b"67890", False)]) == b"1234567890"

    def test_size_is_bounded(self) -> None:
        parts = [self.part(b"12345", True), self.part(b"678901", False)]
        assert refusal(self.read, parts).status == 413
        assert refusal(self.read, [], 10, 0.05, "11").status == 413

    def test_time_is_bounded(self) -> None:
        assert refusal(self.read, [self.part(b"1", True)]).status == 408

    def test_client_that_leaves_needs_no_answer(self) -> None:
        with pytest.raises(ClientGone):
            self.read([self.part(b"1", True), {"type": "http.disconnect"}])


class TestLogprobs:
    POSITIONS = [
        [(5, -0.5, 2, " b"), (4, -0.1, 1, " a"), (6, float("-inf"), 3, " c")],
        [(4, -0.2, 1, " a"), (5, -0.9, 2, " b")],
    ]

    def test_legacy_shape(self) -> None:
        made = LegacyLogprobs(2)
        piece = made.piece(self.POSITIONS, first=["<s>"])
        assert piece["tokens"] == ["<s>", " b", " a"] and piece["text_offset"] == [0, 3, 5]
        assert piece["token_logprobs"] == [None, -0.5, -0.2]
        assert piece["top_logprobs"][1] == {" a": -0.1, " b": -0.5, " c": -9999.0}
        assert made.piece(self.POSITIONS[1:])["text_offset"] == [7]

    def test_chat_shape(self) -> None:
        content = ChatLogprobs(1).piece(self.POSITIONS)["content"]
        assert content[0]["token"] == " b" and [one["token"] for one in content[0]["top_logprobs"]] == [" a"]
        assert content[1]["bytes"] == [32, 97]


class FrozenEngine:
    """Takes requests, and makes no step."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []
        self.submitted = 0

    def submit(self, *_: Any) -> int:
        self.submitted += 1
        return self.submitted

    def cancel(self, request_id: int) -> bool:
        self.cancelled.append(request_id)
        return True


def test_requests_of_a_stuck_engine_end_with_an_error() -> None:
    async def run() -> None:
        engine: Any = FrozenEngine()
        streams = EngineStreams(engine)
        submission = streams.open()
        params: Any = None
        for _ in range(3):
            submission.submit([1], params, params)
        waiting = asyncio.create_task(submission.take())
        await asyncio.sleep(0)
        assert len(streams) == 3 and streams.submissions() == [submission]
        submission.fail(ApiError(503, "stuck"))
        with pytest.raises(ApiError):
            await waiting
        assert sorted(engine.cancelled) == [1, 2, 3] and len(streams) == 0

    asyncio.run(run())


def test_cancelled_submission_gives_nothing_more() -> None:
    async def run() -> None:
        engine: Any = FrozenEngine()
        submission: AsyncSubmission = EngineStreams(engine).open()
        params: Any = None
        submission.submit([1], params, params)
        submission.cancel()
        assert await submission.take() == []

    asyncio.run(run())
