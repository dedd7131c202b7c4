"""AsyncLLM: iterators over the engine, many at a time, and what ends them."""

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quire
from quire import AsyncEngineArgs, AsyncLLM, AsyncLLMEngine, RequestOutput, SamplingParams
from quire.async_streams import LONGEST_PAUSE_SECONDS, AsyncEngineDeadError, EngineStreams

PROMPT = "the thing"
# On the storyteller: the tiny model would be through with anything before Python looks again.
LONG = SamplingParams(n=8, seed=1, max_tokens=900, ignore_eos=True)


@pytest.fixture(scope="module")
def async_llm(tiny_llama: Path) -> Iterator[AsyncLLM]:
    opened = AsyncLLM(str(tiny_llama), kv_cache_memory_bytes=4 << 20)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def storyteller() -> Iterator[AsyncLLM]:
    opened = AsyncLLM(kv_cache_memory_bytes=64 << 20)
    yield opened
    opened.close()


def greedy(max_tokens: int = 20, **fields: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, **fields)


async def wait_until_idle(llm: AsyncLLM) -> None:
    """All requests have ended in the engine and their blocks are free."""
    deadline = time.monotonic() + 5
    while True:
        stats = llm.llm_engine.stats()
        if stats.num_running + stats.num_waiting == 0 and stats.num_free_blocks == stats.num_blocks:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "params", [greedy(), greedy(n=1, logprobs=2), SamplingParams(seed=1, n=3, max_tokens=12), greedy(prompt_logprobs=1)]
)
def test_cumulative_outputs_grow_into_what_generate_returns(
    async_llm: AsyncLLM, llm: quire.LLM, params: SamplingParams
) -> None:
    async def run() -> list[RequestOutput]:
        return [output async for output in async_llm.generate(PROMPT, params)]

    outputs = asyncio.run(run())
    expected = llm.generate(PROMPT, params, use_tqdm=False)[0]
    last = outputs[-1]
    assert last.finished and not any(output.finished for output in outputs[:-1])
    assert [one.text for one in last.outputs] == [one.text for one in expected.outputs]
    assert [one.token_ids for one in last.outputs] == [one.token_ids for one in expected.outputs]
    assert [one.finish_reason for one in last.outputs] == [one.finish_reason for one in expected.outputs]
    assert last.outputs[0].logprobs == expected.outputs[0].logprobs
    assert last.prompt_logprobs == expected.prompt_logprobs
    for earlier, later in zip(outputs, outputs[1:], strict=False):
        for one in earlier.outputs:
            assert later.outputs[one.index].token_ids[: len(one.token_ids)] == one.token_ids


def test_deltas_join_to_the_text(async_llm: AsyncLLM, llm: quire.LLM) -> None:
    async def run() -> str:
        return "".join([output.outputs[0].text async for output in async_llm.stream(PROMPT, greedy())])

    assert asyncio.run(run()) == llm.generate(PROMPT, greedy(), use_tqdm=False)[0].outputs[0].text


def test_many_requests_of_one_loop_run_together(async_llm: AsyncLLM, llm: quire.LLM) -> None:
    prompts = ["the thing", "a", "water", "one two"] * 16
    expected = [one.outputs[0].text for one in llm.generate(prompts, greedy(), use_tqdm=False)]

    async def one(prompt: str) -> str:
        text = ""
        async for output in async_llm.generate(prompt, greedy()):
            text = output.outputs[0].text
        return text

    async def run() -> list[str]:
        return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(run()) == expected


def test_event_loop_wakes_at_most_once_per_step(async_llm: AsyncLLM) -> None:
    wakes = 0
    distribute = async_llm.streams._distribute

    def counted() -> None:
        nonlocal wakes
        wakes += 1
        distribute()

    async def one() -> None:
        async for _ in async_llm.stream(PROMPT, greedy(200)):
            pass

    async def run() -> None:
        await asyncio.gather(*(one() for _ in range(32)))

    async_llm.streams._distribute = counted  # type: ignore[method-assign]
    steps = async_llm.llm_engine.stats().num_steps
    try:
        asyncio.run(run())
    finally:
        del async_llm.streams._distribute  # type: ignore[method-assign]
    assert 0 < wakes <= async_llm.llm_engine.stats().num_steps - steps


def test_closing_an_iterator_ends_its_request(storyteller: AsyncLLM) -> None:
    async def run() -> None:
        outputs = storyteller.generate(PROMPT, LONG)
        assert not (await anext(outputs)).finished
        await outputs.aclose()
        assert len(storyteller.streams) == 0
        await wait_until_idle(storyteller)

    asyncio.run(run())


def test_cancelling_a_task_ends_its_request(storyteller: AsyncLLM) -> None:
    async def consume() -> None:
        async for _ in storyteller.stream(PROMPT, LONG):
            pass

    async def run() -> None:
        tasks = [asyncio.create_task(consume()) for _ in range(20)]
        while not storyteller.llm_engine.stats().num_running:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError)
        await wait_until_idle(storyteller)

    asyncio.run(run())


def test_dropping_an_iterator_ends_its_request(storyteller: AsyncLLM) -> None:
    async def run() -> None:
        async for _ in storyteller.generate(PROMPT, LONG):
            break
        gc.collect()
        await asyncio.sleep(0)
        await wait_until_idle(storyteller)

    asyncio.run(run())


def test_abort_by_name_ends_the_iteration(storyteller: AsyncLLM) -> None:
    async def run() -> None:
        outputs = storyteller.generate(PROMPT, LONG, request_id="mine")
        output = await anext(outputs)
        assert output.request_id == "mine"
        await storyteller.abort("mine")
        await storyteller.abort(["unknown"])
        assert [one async for one in outputs] == []
        await wait_until_idle(storyteller)

    asyncio.run(run())


def test_name_in_use_is_refused(storyteller: AsyncLLM) -> None:
    async def run() -> None:
        first = storyteller.generate(PROMPT, LONG, "same")
        await anext(first)
        with pytest.raises(KeyError, match="same"):
            await anext(storyteller.generate(PROMPT, LONG, "same"))
        await first.aclose()
        assert (await anext(storyteller.generate(PROMPT, greedy(1), "same"))).request_id == "same"

    asyncio.run(run())


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"prompt": None}, ValueError, "must be provided"),
        ({"prompt": [PROMPT, PROMPT]}, ValueError, "one prompt"),
        ({"prompt": [99999]}, ValueError, "vocabulary"),
        ({"prompt": [1] * 1000}, ValueError, "max_model_len"),
        ({"prompt": PROMPT, "output_kind": "all"}, ValueError, "output_kind"),
        ({"prompt": PROMPT, "lora_request": 1}, NotImplementedError, "lora_request"),
        ({"prompt": PROMPT, "sampling_params": SamplingParams(best_of=2)}, NotImplementedError, "best_of"),
        ({"prompt": PROMPT, "sampling_params": 5}, ValueError, "sampling_params"),
    ],
)
def test_what_is_wrong_is_told_and_leaves_it_usable(
    async_llm: AsyncLLM, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    async def run() -> None:
        with pytest.raises(error, match=message):
            await anext(async_llm.generate(**{"sampling_params": greedy(), **fields}))
        assert await anext(async_llm.generate(PROMPT, greedy(1)))
        await wait_until_idle(async_llm)

    asyncio.run(run())


def test_token_ids_and_names_of_vllm(async_llm: AsyncLLM) -> None:
    async def run() -> None:
        output = await anext(async_llm.generate(None, greedy(1), "r", [5, 6]))
        assert output.prompt is None and output.prompt_token_ids == [5, 6]
        assert (await async_llm.get_model_config()).max_model_len == 256
        assert (await async_llm.get_tokenizer()).encode("a")
        await async_llm.check_health()
        await async_llm.do_log_stats()
        assert async_llm.is_running and not async_llm.is_stopped and not async_llm.errored

    asyncio.run(run())
    assert AsyncLLMEngine is AsyncLLM


def test_long_texts_are_encoded_elsewhere(async_llm: AsyncLLM) -> None:
    async def run() -> None:
        longest_gap = 0.0

        async def watch() -> None:
            nonlocal longest_gap
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0)
                now = time.perf_counter()
                longest_gap = max(longest_gap, now - last)
                last = now

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.01)
        start = time.perf_counter()
        ids = await async_llm.encode("the thing " * 200_000)
        seconds = time.perf_counter() - start
        watching.cancel()
        # A lock that is held while a text is encoded would make one gap of it all.
        assert len(ids) > 200_000 and longest_gap < seconds / 3

    asyncio.run(run())


def test_from_engine_args_and_close() -> None:
    async def run() -> None:
        arguments = AsyncEngineArgs(kv_cache_memory_bytes=32 << 20, disable_log_requests=True)
        async with AsyncLLMEngine.from_engine_args(arguments, start_engine_loop=True) as llm:
            outputs = llm.generate(PROMPT, LONG)
            await anext(outputs)
            llm.close()
            with pytest.raises(AsyncEngineDeadError, match="closed"):
                async for _ in outputs:
                    pass
            assert llm.is_stopped
            with pytest.raises(AsyncEngineDeadError, match="closed"):
                await anext(llm.generate(PROMPT, LONG))
            with pytest.raises(AsyncEngineDeadError, match="closed"):
                await llm.check_health()
            llm.close()

    asyncio.run(run())


def test_one_loop_after_another_but_not_two_at_a_time(storyteller: AsyncLLM) -> None:
    async def one() -> RequestOutput:
        return await anext(storyteller.generate(PROMPT, greedy(1)))

    for _ in range(3):
        assert asyncio.run(one()).finished

    async def two() -> None:
        outputs = storyteller.generate(PROMPT, LONG)
        await anext(outputs)
        with pytest.raises(RuntimeError, match="event loop"):
            await asyncio.to_thread(asyncio.run, one())
        await outputs.aclose()

    asyncio.run(two())


def test_pauses_join_tokens_and_lose_none(storyteller: AsyncLLM) -> None:
    turns = 0
    streams = EngineStreams(storyteller.core, pause=1.0)
    distribute = streams._distribute

    def counted() -> None:
        nonlocal turns
        turns += 1
        distribute()

    async def one() -> int:
        num_tokens = 0
        async for output in storyteller.generate(PROMPT, greedy(100), output_kind="delta"):
            num_tokens += len(output.outputs[0].token_ids)
        return num_tokens

    async def run() -> list[int]:
        return await asyncio.gather(*(one() for _ in range(8)))

    streams._distribute = counted  # type: ignore[method-assign]
    before, storyteller.streams = storyteller.streams, streams
    start = time.monotonic()
    try:
        assert asyncio.run(run()) == [100] * 8
    finally:
        storyteller.streams = before
    assert turns <= 3 + (time.monotonic() - start) / LONGEST_PAUSE_SECONDS


def test_lone_requests_do_not_keep_the_loop_busy(async_llm: AsyncLLM) -> None:
    async def run() -> float:
        await anext(async_llm.generate(PROMPT, greedy(1)))
        start = time.process_time()
        await asyncio.sleep(0.2)
        return time.process_time() - start

    assert asyncio.run(run()) < 0.05
