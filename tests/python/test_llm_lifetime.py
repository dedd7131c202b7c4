"""LLM among threads, signals and processes, and after close()."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from quire import LLM, RequestOutput, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["Once upon a time", "The", "a", "In the middle of the night", "x" * 60]


def ids(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def test_two_threads_may_generate_at_once(llm: LLM) -> None:
    expected = ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    results: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        results[number] = ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [expected] * 4


def test_other_python_threads_run_while_the_engine_computes(llm: LLM) -> None:
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.monotonic()
    llm.generate(["a"] * 40, SamplingParams(max_tokens=100, ignore_eos=True), use_tqdm=False)
    elapsed = time.monotonic() - start
    done.set()
    ticker.join()
    # One tick takes a little more than a millisecond if nothing holds the interpreter lock.
    assert ticks > 0.1 * elapsed / 0.001


def test_ctrl_c_ends_generate_soon_and_cancels_its_requests(llm: LLM) -> None:
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        while True:  # the model is too fast for one call to last long enough on every machine
            llm.generate(["a"] * 200, SamplingParams(max_tokens=None, ignore_eos=True), use_tqdm=False)
    assert time.monotonic() - start < 1.5
    deadline = time.monotonic() + 2.0
    while llm.llm_engine.has_unfinished_requests() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not llm.llm_engine.has_unfinished_requests()
    assert llm.generate("a", GREEDY, use_tqdm=False)[0].finished


def test_a_closed_llm_says_so(tiny_llama: Path) -> None:
    opened = LLM(str(tiny_llama), kv_cache_memory_bytes=1 << 20)
    opened.close()
    opened.close()
    for call in (opened.generate, opened.stream, opened.chat):
        with pytest.raises(RuntimeError, match="closed"):
            call("a")


def test_close_ends_what_runs_in_another_thread(tiny_llama: Path) -> None:
    opened = LLM(str(tiny_llama), kv_cache_memory_bytes=1 << 20)
    reasons: list[str | None] = []

    def work() -> None:
        params = SamplingParams(max_tokens=None, ignore_eos=True)
        outputs = opened.generate(["a"] * 300, params, use_tqdm=False)
        reasons.extend(output.outputs[0].finish_reason for output in outputs)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    opened.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert len(reasons) == 300
    assert "abort" in reasons


def test_a_forked_child_is_told_and_does_not_hang(llm: LLM) -> None:
    child = os.fork()
    if child == 0:
        try:
            llm.generate("a")
        except RuntimeError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
