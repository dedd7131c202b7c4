"""How many requests may wait or run at a time; who comes beyond that is told when to come again."""

from __future__ import annotations

import asyncio

from quire.server.errors import ApiError, bad_request

RETRY_SECONDS = 1


class Admission:
    """Counts what is in the house. A prompt is one request, however many completions it asks for."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.num_requests = 0
        self.num_tokens = 0
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    def require_place(self) -> None:
        """Raises: ApiError 429 if the house is full, 503 once it is closed."""
        if self._closed:
            raise ApiError(503, "The server is shutting down.", retry_after=RETRY_SECONDS)
        if self.num_requests >= self.max_requests:
            raise _full(f"{self.num_requests} requests wait or run, max_queued_requests={self.max_requests}")

    def admit(self) -> Ticket:
        """Let a request in, before it costs anything. Raises: as require_place()."""
        self.require_place()
        ticket = Ticket(self)
        ticket.extend(1, 0)
        return ticket

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    async def wait_until_empty(self) -> None:
        """Return when all who were let in have left."""
        await self._empty.wait()

    def _change(self, num_requests: int, num_tokens: int) -> None:
        self.num_requests += num_requests
        self.num_tokens += num_tokens
        if self.num_requests:
            self._empty.clear()
        else:
            self._empty.set()


class Ticket:
    """What one HTTP request takes up. To be released once, at its end."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._num_requests = 0
        self._num_tokens = 0

    def hold(self, num_prompts: int, num_tokens: int) -> None:
        """Take up room for prompts whose number and tokens are known by now.

        Raises: ApiError 429 if there is too little room now, 400 for more prompts than can ever be.
        """
        limit = self._admission.max_requests
        if num_prompts > limit:
            message = f"prompt must have at most {limit} prompts (max_queued_requests), got {num_prompts}."
            raise bad_request(message, "prompt")
        self.extend(num_prompts - self._num_requests, num_tokens)

    def extend(self, num_requests: int, num_tokens: int) -> None:
        """Take up more room. Raises: ApiError 429 if there is too little."""
        house = self._admission
        if house.num_requests + num_requests > house.max_requests:
            raise _full(f"{house.num_requests} requests wait or run, max_queued_requests={house.max_requests}")
        # Whoever is alone may have more tokens than the queue: the engine tells whether they fit.
        others = house.num_tokens - self._num_tokens
        if others and others + self._num_tokens + num_tokens > house.max_tokens:
            raise _full(f"{others} prompt tokens wait or run, max_queued_tokens={house.max_tokens}")
        self._num_requests += num_requests
        self._num_tokens += num_tokens
        house._change(num_requests, num_tokens)

    def release(self) -> None:
        """Leave. A second call does nothing."""
        self._admission._change(-self._num_requests, -self._num_tokens)
        self._num_requests = self._num_tokens = 0


def _full(why: str) -> ApiError:
    return ApiError(429, f"The server is busy: {why}. Try again later.", retry_after=RETRY_SECONDS)
