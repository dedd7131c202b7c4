"""Runs a server from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from quire.async_llm import AsyncLLM
from quire.server.app import find_middleware, openai_app
from quire.server.connections import protocol_class
from quire.server.errors import ApiError
from quire.server.service import FLUSH_SECONDS, Service

if TYPE_CHECKING:
    from quire.server_arguments import ServerArgs

logger = logging.getLogger("quire.server")

KEEP_ALIVE_SECONDS = 5

MakeApp = Callable[[Service], Any]


def serve(arguments: ServerArgs, make_app: MakeApp = openai_app) -> int:
    """Serve a model until SIGTERM or SIGINT, and return the exit code: 0.

    The first signal lets running answers end, for at most `drain_timeout` seconds; a second one ends them at once.

    Raises, before anything is served: OSError for a port in use or a file that cannot be read, and as LLM() does.
    """
    _set_up_logging()
    template = arguments.read_chat_template()
    if template is not None:
        _require_template(template)
    if arguments.engine.skip_tokenizer_init:
        raise NotImplementedError("skip_tokenizer_init=True is not offered by the server, whose answers are texts.")
    _require_files(arguments)
    for path in arguments.middleware:
        find_middleware(path)
    # Before the model is read, so that a port in use is told at once.
    listener = bind(arguments.host, arguments.port)
    try:
        llm = AsyncLLM.from_engine_args(arguments.engine)
        try:
            service = Service(arguments, llm, template)
            config = _uvicorn_config(arguments, make_app(service))
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(_serve(service, _Server(config, listener)))
        finally:
            llm.close()
    finally:
        listener.close()
    return 0


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address. Raises: OSError naming it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"host={host!r} is no address of this machine: {error.strerror}") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {host}:{port}: {os.strerror(error.errno or 0)}") from None
    return listener


def _set_up_logging() -> None:
    """One handler for all, unless the program that calls has its own."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _require_template(template: str) -> None:
    """Raises: ValueError if the template is no template; whether it likes a conversation, requests will tell."""
    from quire.chat import render

    try:
        render(template, [{"role": "user", "content": "Hello"}], {"add_generation_prompt": True})
    except ValueError as error:
        if "is wrong in line" in str(error) or "is too long" in str(error):
            raise ValueError(f"chat_template: {error}") from None


def _require_files(arguments: ServerArgs) -> None:
    for name in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs"):
        path = getattr(arguments, name)
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"{name}={path!r} is not a file.")


def _uvicorn_config(arguments: ServerArgs, app: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level=arguments.uvicorn_log_level,
        access_log=False,
        http=protocol_class(arguments.max_header_bytes, arguments.request_timeout),
        ws="none",
        lifespan="off",
        h11_max_incomplete_event_size=arguments.max_header_bytes,
        root_path=arguments.root_path or "",
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FLUSH_SECONDS,
        ssl_keyfile=arguments.ssl_keyfile,
        ssl_certfile=arguments.ssl_certfile,
        ssl_ca_certs=arguments.ssl_ca_certs,
        ssl_cert_reqs=arguments.ssl_cert_reqs,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"ssl_certfile={arguments.ssl_certfile!r} or its key cannot be used: {error}") from None
    return config


class _Server(uvicorn.Server):
    """uvicorn's server on a socket of ours, with signals of ours."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self.listener = listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        host, port = self.listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        logger.info("listening at %s://%s:%d", scheme, shown, port)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(service: Service, server: _Server) -> None:
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    async def end(seconds: float) -> None:
        await service.drain(seconds)
        server.should_exit = True

    def on_signal() -> None:
        if not ending:
            logger.info("no new requests; %d are to end, for which they have %g seconds; again to end them now",
                        service.admission.num_requests, service.arguments.drain_timeout)  # fmt: skip
            ending.append(loop.create_task(end(service.arguments.drain_timeout)))
        else:
            service.end_all(ApiError(503, "The server is shutting down; this answer is cut off."))
            server.should_exit = server.force_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    watch = loop.create_task(service.watch())
    try:
        await server.serve([server.listener])
    finally:
        watch.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
