"""The OpenAI-compatible application: routes, schema, and what stands in front of them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, cast

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from quire._version import __version__
from quire.server.admission import Ticket
from quire.server.chat import create_chat_completion
from quire.server.completions import create_completion
from quire.server.errors import ApiError
from quire.server.gate import Gate
from quire.server.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from quire.server.reading import read_body, require_json
from quire.server.service import Service
from quire.server.strict_json import parse_object
from quire.server.tokens import detokenize, tokenize
from quire.server_arguments import ServerArgs

Create = Callable[[Service, dict[str, Any], str, Ticket], Awaitable[Response]]
Compute = Callable[[Service, dict[str, Any]], Awaitable[dict[str, Any]]]


def openai_app(service: Service) -> Any:
    """The whole ASGI application for a model."""
    app = bare_app(service)
    _add_life(app, service)
    _add_models(app, service)
    _add_generation(app, service)
    if service.arguments.page:
        _add_page(app)
    return fenced(app, service.arguments)


def bare_app(service: Service) -> FastAPI:
    """A FastAPI application without routes, whose errors have OpenAI's form."""
    app = FastAPI(
        title="quire",
        version=__version__,
        description="OpenAI's API for a model on this machine. Errors are {error: {message, type, param, code}}.",
        root_path=service.arguments.root_path or "",
        redoc_url=None,
    )

    async def on_api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _answer(error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{error.detail}: {request.method} {request.url.path[:200]}"
        return _answer(ApiError(error.status_code, message), error.headers)

    async def on_any_error(_: Request, error: Exception) -> Response:
        # Gate, to which it goes on, logs it.
        return _answer(ApiError(500, "Internal error; the server's log says more."))

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_any_error)
    return app


def _answer(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    own = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), error.status, {**own, **(headers or {})})


def fenced(app: FastAPI, arguments: ServerArgs) -> Any:
    """The application behind the operator's middleware, the key and the limits. Raises: as find_middleware()."""
    for path in arguments.middleware:
        found = find_middleware(path)
        if inspect.isclass(found):
            app.add_middleware(cast(Any, found))
        else:
            app.middleware("http")(found)
    gate = Gate(app, arguments.api_key, arguments.root_path or "", arguments.max_header_bytes)
    # Outside, because browsers ask without a key whether they may ask.
    return CORSMiddleware(
        gate,
        allow_origins=arguments.allowed_origins,
        allow_methods=arguments.allowed_methods,
        allow_headers=arguments.allowed_headers,
        allow_credentials=arguments.allow_credentials,
    )


def find_middleware(path: str) -> Any:
    """A class of ASGI middleware, or a coroutine function of (request, call_next).

    Raises: ValueError if the import path leads to neither.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"middleware={path!r} cannot be imported: {error}.") from None
    if not (inspect.isclass(found) or inspect.iscoroutinefunction(found)):
        raise ValueError(f"middleware={path!r} must be a class or a coroutine function.")
    return found


def _add_life(app: FastAPI, service: Service) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether the process and its engine are alive")
    async def health() -> Response:
        service.require_healthy()
        return Response()

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Whether requests are taken, and steps are made")
    async def ready() -> Response:
        service.require_ready()
        return JSONResponse({"status": "ready"})

    @app.get("/version", summary="The version of quire")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        body, content_type = service.metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def _add_models(app: FastAPI, service: Service) -> None:
    cards = {name: _card(name, service) for name in service.names}

    @app.get("/v1/models", summary="The models that can be asked for")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": list(cards.values())})

    @app.get("/v1/models/{name:path}", summary="One of them")
    async def model(name: str) -> Response:
        service.require_model(name)
        return JSONResponse(cards[name])


def _card(name: str, service: Service) -> dict[str, Any]:
    created = int(service.start_time)
    permission = {
        "id": f"modelperm-{service.id}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "quire",
        "root": service.names[0],
        "parent": None,
        "max_model_len": service.max_model_len,
        # An addition: the page begins with a chat or with a story, as the model can.
        "has_chat_template": service.chat_template is not None or service.llm.tokenizer.chat_template is not None,
        "permission": [permission],
    }


def _add_generation(app: FastAPI, service: Service) -> None:
    schemas: dict[str, Any] = {}

    def generating(path: str, create: Create, kind: type[BaseModel]) -> None:
        async def answer(request: Request) -> Response:
            return await generate(service, request, create)

        app.post(path, summary=kind.__doc__, openapi_extra=_body_of(kind, schemas), name=path)(answer)

    def computing(path: str, compute: Compute, kind: type[BaseModel]) -> None:
        async def answer(request: Request) -> Response:
            return JSONResponse(await compute(service, await read_object(service, request)))

        app.post(path, summary=kind.__doc__, openapi_extra=_body_of(kind, schemas), name=path)(answer)

    generating("/v1/completions", create_completion, CompletionRequest)
    generating("/v1/chat/completions", create_chat_completion, ChatRequest)
    computing("/tokenize", tokenize, TokenizeRequest)
    computing("/detokenize", detokenize, DetokenizeRequest)
    _add_schemas(app, schemas, service.arguments.api_key is not None)


def _body_of(kind: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """The description of a body that is read by hand; its parts go to `schemas`."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[kind.__name__] = schema
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def _add_schemas(app: FastAPI, schemas: dict[str, Any], with_key: bool) -> None:
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(schemas)
        if with_key:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def read_object(service: Service, request: Request) -> dict[str, Any]:
    """A body as a JSON object. Raises: ApiError; ClientGone."""
    require_json(request.scope)
    arguments = service.arguments
    body = await read_body(request.scope, request.receive, arguments.max_body_bytes, arguments.request_timeout)
    return parse_object(body)


async def generate(service: Service, request: Request, create: Create) -> Response:
    """Let a request in and have its answer made. Raises: ApiError; ClientGone."""
    try:
        # Who has no chance need not send a body, and who sends one slowly takes no place.
        service.admission.require_place()
        body = await read_object(service, request)
        ticket = service.admission.admit()
    except ApiError as error:
        service.metrics.refused(refusal_kind(error))
        raise
    try:
        return await create(service, body, request.scope["state"]["request_id"], ticket)
    except BaseException as error:
        ticket.release()
        if isinstance(error, ApiError):
            service.metrics.refused(refusal_kind(error))
        raise


def refusal_kind(error: ApiError) -> str:
    """A word for the metrics."""
    return {429: "overload", 503: "draining", 413: "too_large", 408: "too_slow"}.get(error.status, "invalid")


def _add_page(app: FastAPI) -> None:
    from quire.server.page import page

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        body, headers = page()
        return Response(body, headers=headers)
