#!/usr/bin/env python3
"""Time quire on the CPU, alone or beside llama.cpp in the same run; medians and ratios.

    python tests/bench/cpu_latency.py --model DIR                       # quire alone
    python tests/bench/cpu_latency.py --model DIR --llama BIN --gguf F  # both in turn, --rounds times

Cases (greedy, end of text ignored, random token ids, no prefix reuse):
  decode       tokens/s at batch 1: prompt 32, 128 tokens after the first
  prefill512, prefill2048   prompt tokens/s of a request that generates one token
  batch16      generated tokens/s of 16 requests given at once, prompt 128, 64 generated tokens each

BIN is the folder of llama.cpp's llama-bench and llama-server. Every round starts each engine in a fresh process, so
that the two interleave; the machine must be otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

CASES = ("decode", "prefill512", "prefill2048", "batch16")
random_ids = random.Random(1)


def prompt(length: int) -> list[int]:
    return [random_ids.randint(300, 40000) for _ in range(length)]


def quire_worker(model: str, cases: list[str], threads: int, dtype: str) -> None:
    """Print one JSON line per case; runs in a process of its own."""
    from quire import LLM, SamplingParams

    options = {"num_threads": threads} if threads else {}
    llm = LLM(
        model=model, skip_tokenizer_init=True, enable_prefix_caching=False, max_model_len=4096, dtype=dtype, **options
    )

    def clock(lengths: list[int], generate: int) -> float:
        params = SamplingParams(temperature=0, max_tokens=generate, ignore_eos=True)
        prompts = [prompt(length) for length in lengths]
        start = time.perf_counter()
        outputs = llm.generate(prompt_token_ids=prompts, sampling_params=params, use_tqdm=False)
        seconds = time.perf_counter() - start
        assert all(len(output.outputs[0].token_ids) == generate for output in outputs)
        return seconds

    clock([32], 8)
    for case in cases:
        if case == "decode":
            rate = 128 / (-clock([32], 1) + clock([32], 129))
        elif case == "batch16":
            rate = 16 * 64 / clock([128] * 16, 64)
        else:
            length = int(case.removeprefix("prefill"))
            clock([length], 1)
            rate = length / clock([length], 1)
        print(json.dumps({"case": case, "rate": rate}), flush=True)
    llm.close()


def run_quire(arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", "--model", arguments.model, "--dtype", arguments.dtype]
    command += ["--threads", str(arguments.threads), "--cases", *arguments.cases]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["case"]: row["rate"] for row in rows}


def run_llama(arguments: argparse.Namespace) -> dict[str, float]:
    threads = str(arguments.threads or 2)
    rates = {}
    for case in arguments.cases:
        if case == "batch16":
            rates[case] = llama_server(Path(arguments.llama) / "llama-server", arguments.gguf, threads)
            continue
        shape = (
            ["-p", "0", "-n", "128", "-d", "32"]
            if case == "decode"
            else ["-p", case.removeprefix("prefill"), "-n", "0"]
        )
        command = [
            f"{arguments.llama}/llama-bench",
            "-m",
            arguments.gguf,
            "-t",
            threads,
            *shape,
            "-r",
            "1",
            "-o",
            "json",
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rates[case] = json.loads(output)[0]["avg_ts"]
    return rates


def llama_server(binary: Path, gguf: str, threads: str) -> float:
    """Generated tokens/s of 16 concurrent requests against llama.cpp's server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(binary), "-m", gguf, "-t", threads, "-tb", threads, "-np", "16", "-c", "4096", "-cb", "-b", "2048"]
    command += ["-ub", "512", "--host", "127.0.0.1", "--port", str(port), "--no-cache-prompt", "--cache-ram", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def post(length: int, generate: int) -> None:
        body = {"prompt": prompt(length), "n_predict": generate, "ignore_eos": True, "temperature": 0}
        request = urllib.request.Request(f"{url}/completion", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=600) as response:
            assert json.load(response)["tokens_predicted"] == generate

    try:
        wait_until_ready(lambda: urllib.request.urlopen(f"{url}/health", timeout=5).status == 200)
        post(32, 8)
        workers = [threading.Thread(target=post, args=(128, 64)) for _ in range(16)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return 16 * 64 / (time.perf_counter() - start)
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(ready: Callable[[], bool]) -> None:
    for _ in range(600):
        try:
            if ready():
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the peer's server did not start within 60 s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: one per physical core")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama", help="folder of llama.cpp's programs")
    parser.add_argument("--gguf", help="the same model for llama.cpp")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        quire_worker(arguments.model, arguments.cases, arguments.threads, arguments.dtype)
        return

    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    for _ in range(arguments.rounds):
        rounds.append((run_quire(arguments), run_llama(arguments) if arguments.llama else {}))
    print("| case | quire, tok/s | llama.cpp, tok/s | ratio (min-max) |\n| --- | ---: | ---: | ---: |")
    for case in arguments.cases:
        ours = statistics.median(quire[case] for quire, _ in rounds)
        if not arguments.llama:
            print(f"| {case} | {ours:.1f} | | |")
            continue
        theirs = statistics.median(llama[case] for _, llama in rounds)
        ratios = sorted(quire[case] / llama[case] for quire, llama in rounds)
        median = statistics.median(ratios)
        print(f"| {case} | {ours:.1f} | {theirs:.1f} | {median:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) |")


if __name__ == "__main__":
    main()
