"""One bad request must hurt only itself: R8 of the reliability goals."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from poison import Poison, poison

from server_process import ServerProcess

NEIGHBOURS = 16


def neighbour(server: ServerProcess, index: int) -> str:
    """One greedy request that takes a while."""
    body = {
        "model": "storyteller",
        "prompt": "Once upon a time " * (1 + index % 4) + "there was a",
        "max_tokens": 200 + index,
        "temperature": 0,
        "ignore_eos": True,
    }
    status, answer = server.post("/v1/completions", body)
    assert status == 200, answer
    return str(answer["choices"][0]["text"])


class Neighbours:
    """Greedy requests that run one after another in NEIGHBOURS threads until told to end."""

    def __init__(self, server: ServerProcess, expected: list[str]) -> None:
        self._server = server
        self._expected = expected
        self._end = threading.Event()
        self.num_done = 0

    def run(self, index: int) -> int:
        """Returns how many answers were other than expected."""
        num_wrong = 0
        while not self._end.is_set():
            num_wrong += neighbour(self._server, index) != self._expected[index]
            self.num_done += 1
        return num_wrong

    def end(self) -> None:
        self._end.set()


def problem_of(server: ServerProcess, item: Poison) -> str | None:
    """What is wrong with the answer to one of them."""
    name, path, body, param = item
    start = time.monotonic()
    status, headers, answer = server.request("POST", path, body)
    seconds = time.monotonic() - start
    if not 400 <= status < 500 or status == 429:
        return f"{name}: status {status}: {answer[:200]!r}"
    if seconds > 1:
        return f"{name}: {seconds:.2f} s"
    error = json.loads(answer)["error"]
    if set(error) != {"message", "type", "param", "code"} or error["code"] != status:
        return f"{name}: {error}"
    message = error["message"]
    if not message or "\n" in message or len(message) > 600 or "0x" in message or "/site-packages" in message:
        return f"{name}: message {message!r}"
    if param is not None and error["param"] != param:
        return f"{name}: param is {error['param']!r}: {message}"
    return None


def test_every_poison_is_refused_and_no_neighbour_changes(server: ServerProcess) -> None:
    items = poison()
    assert len(items) >= 120
    with ThreadPoolExecutor(NEIGHBOURS) as pool:
        expected = list(pool.map(lambda index: neighbour(server, index), range(NEIGHBOURS)))
        neighbours = Neighbours(server, expected)
        running = [pool.submit(neighbours.run, index) for index in range(NEIGHBOURS)]
        try:
            problems = [problem for item in items if (problem := problem_of(server, item))]
        finally:
            neighbours.end()
        assert sum(one.result() for one in running) == 0
    assert not problems, "\n".join(problems)
    assert neighbours.num_done >= NEIGHBOURS
    server.wait_until_idle()
    assert server.process.poll() is None
