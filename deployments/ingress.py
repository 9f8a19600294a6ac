"""The HTTP side: OpenAI's endpoints, with requests checked before they reach a replica.

`ray.serve.llm` does the work; this subclass finds the tenant, checks `kv_transfer_params` and gives
every error OpenAI's form. Which replica answers is decided in `prompt_router.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Body, Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from ray.llm._internal.common.errors import VLLM_CLIENT_ERRORS
from ray.llm._internal.serve.core.configs.openai_api_models import (
    OpenAIHTTPException,
    to_model_metadata,
)
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS, CallMethod
from ray.llm._internal.serve.core.ingress.middleware import SetRequestIdMiddleware
from ray.serve.context import _get_serve_request_context
from ray.serve.llm import LLMConfig
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.responses import PlainTextResponse, Response

from raysparsex.config import ReuseMode, ReuseParams, parse_request
from raysparsex.errors import InvalidRequest
from raysparsex.segment.trust_scope import TrustScope

from .delivery import Delivery
from .graph_routes import GraphRoutes
from .hints import SESSION_HEADER, Programs, heed, hints_of
from .metrics import page
from .openai_errors import RequestRefused, install_handlers, refusal_response, refused_by_engine
from .prompt_router import REPLICA_HEADER
from .segment_routing import RoutingSetup, SegmentRouting
from .tenants import ANYBODY, Tenant, Tenants, salt_of

ENDPOINTS: dict[str, Callable[[FastAPI], Any]] = {
    **{name: DEFAULT_ENDPOINTS[name] for name in ("models", "model_data", "completions", "chat")},
    **{name: DEFAULT_ENDPOINTS[name] for name in ("tokenize", "detokenize")},
    "responses": lambda app: app.post("/v1/responses"),
    "engine_facts": lambda app: app.get("/raysparsex/engine"),
    "routing_facts": lambda app: app.get("/raysparsex/routing"),
    "metrics": lambda app: app.get("/metrics"),
    "graphs": lambda app: app.get("/v1/graphs"),
    "invoke_graph": lambda app: app.post("/v1/graphs/{name}/invoke"),
    "stream_graph": lambda app: app.post("/v1/graphs/{name}/stream"),
    "graph_thread": lambda app: app.get("/v1/graphs/{name}/threads/{thread_id:path}"),
}


_ANY = Body()
GENERATING = (CallMethod.CHAT.value, CallMethod.COMPLETIONS.value)
OPEN_PATHS = ("/metrics",)
"""Asked without a key: a page that names no tenant and no text."""


class ReuseIngress(OpenAiIngress):
    """OpenAI's endpoints of one model."""

    def __init__(
        self,
        llm_deployments: dict[str, Any],
        model_cards: dict[str, Any],
        routing: RoutingSetup | None = None,
        graph_names: tuple[str, ...] = (),
        graphs: Any = None,
    ) -> None:
        """`routing`: None where Ray Serve chooses by itself. `graphs`: their deployment."""
        super().__init__(llm_deployments, model_cards)
        self._routing = SegmentRouting(routing) if routing else None
        self._programs = Programs()
        self._graphs = GraphRoutes(graph_names, graphs)

    async def check_health(self) -> None:
        """Ray Serve asks before it sends the first request, and every few seconds from then on."""
        if self._routing is not None:
            self._routing.keep_up(self._handle())

    async def responses(self) -> Response:
        """Not offered. Told with the way out, since some clients ask here unless told otherwise."""
        message = "the Responses API is not offered; allowed: /v1/chat/completions"
        raise RequestRefused(404, message, None, "not_found")

    async def engine_facts(self) -> dict[str, Any]:
        """What the model's engine holds now, for operators and tests; one replica answers."""
        facts: dict[str, Any] = await self._handle().engine_facts.remote()
        return facts

    async def routing_facts(self) -> dict[str, Any]:
        """How requests were routed, for operators and tests."""
        return self._routing.facts() if self._routing else {}

    async def metrics(self) -> Response:
        """The Prometheus page of the whole deployment."""
        return PlainTextResponse(await page())

    async def graphs(self) -> Response:
        """The agent graphs that are offered."""
        return await self._graphs.list()

    async def invoke_graph(self, name: str, request: Request, body: Any = _ANY) -> Response:
        """Run an agent graph to its end, or to an interrupt."""
        return await self._graphs.invoke(name, body, request.state.tenant)

    async def stream_graph(self, name: str, request: Request, body: Any = _ANY) -> Response:
        """Run an agent graph, and tell what happens."""
        return await self._graphs.stream(name, body, request.state.tenant)

    async def graph_thread(self, name: str, thread_id: str, request: Request) -> Response:
        """One thread of an agent graph as it is now."""
        return await self._graphs.state(name, thread_id, request.state.tenant)

    async def _process_llm_request(
        self, body: Any, call_method: str, raw_request: Request | None = None
    ) -> Response:
        params = _check(body)
        tenant = raw_request.state.tenant if raw_request else ANYBODY
        _bind_to(tenant, body, params)
        self._heed_hints(tenant, body, raw_request)
        response: Response = await super()._process_llm_request(body, call_method, raw_request)
        delivery = getattr(raw_request.state, "delivery", None) if raw_request else None
        if delivery is not None and delivery.replica is not None:
            response.headers[REPLICA_HEADER] = delivery.replica
        return response

    def _heed_hints(self, tenant: Tenant, body: Any, raw_request: Request | None) -> None:
        headers = raw_request.headers if raw_request else {}
        try:
            hints = hints_of(body)
        except InvalidRequest as error:
            raise RequestRefused(400, str(error), error.field, "invalid_value") from error
        heed(hints, body)
        body.priority = self._programs.priority(tenant.name, headers.get(SESSION_HEADER), hints)

    async def _get_model_id(self, model: str | None) -> str:
        known = ", ".join(self._model_cards)
        if model is not None and model not in self._model_cards:
            message = f"model: there is no model {model!r}; allowed: {known}"
            raise RequestRefused(404, message, "model", "model_not_found")
        served: str = await super()._get_model_id(model)
        return served

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Request | None = None
    ) -> AsyncGenerator[Any, None]:
        def send() -> AsyncGenerator[Any, None]:
            responses: AsyncGenerator[Any, None] = super(ReuseIngress, self)._get_response(
                body=body, call_method=call_method, raw_request=raw_request
            )
            return responses

        generates, routing = call_method in GENERATING, self._routing
        router = routing.router if routing and generates else None
        delivery = Delivery(router, _get_serve_request_context().request_id, send)
        prompt = await routing.named(body) if routing and generates else None
        asked = raw_request.headers.get(REPLICA_HEADER) if raw_request else None
        if raw_request is not None:
            raw_request.state.delivery = delivery
        streams = bool(getattr(body, "stream", False))
        try:
            async with aclosing(delivery.answer(prompt, streams, asked)) as responses:
                async for response in responses:
                    yield response
        except InvalidRequest as error:
            raise RequestRefused(400, str(error), error.field, "invalid_value") from error

    def _handle(self) -> Any:
        return next(iter(self._default_serve_handles.values())).options(stream=False)


def _check(body: Any) -> ReuseParams:
    """What neither pydantic nor the engine checks, or what they refuse without naming the field."""
    if getattr(body, "messages", None) == []:
        raise RequestRefused(400, "messages: is empty; allowed: at least one", "messages")
    try:
        return parse_request(body.kv_transfer_params)
    except InvalidRequest as error:
        raise RequestRefused(400, str(error), error.field, "invalid_value") from error


def _bind_to(tenant: Tenant, body: Any, params: ReuseParams) -> None:
    """Give the request its tenant's salt. What is for everybody is computed exactly and kept."""
    scope = TrustScope(params.scope) if params.scope else None
    body.cache_salt = salt_of(tenant, body.cache_salt, scope)
    if scope is TrustScope.PUBLIC:
        if params.publish is False or params.reuse not in (None, ReuseMode.EXACT):
            message = "kv_transfer_params.scope: public goes with mode exact and is published"
            raise RequestRefused(400, message, "kv_transfer_params.scope", "invalid_value")
        body.kv_transfer_params = {**body.kv_transfer_params, "reuse": ReuseMode.EXACT.value}


def with_routes(ingress: type[OpenAiIngress], tenants: Tenants) -> Any:
    """The class with its HTTP routes, as Ray Serve wants it."""

    async def admit(request: Request) -> None:
        if request.url.path not in OPEN_PATHS:
            request.state.tenant = tenants.tenant_of(request.headers.get("authorization"))

    app = FastAPI(title="RaySparseX", strict_content_type=False, dependencies=[Depends(admit)])
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"])
    app.add_middleware(SetRequestIdMiddleware)
    install_handlers(app)
    app.add_exception_handler(OpenAIHTTPException, _on_serve_refusal)
    for refusal in VLLM_CLIENT_ERRORS:
        app.add_exception_handler(refusal, _on_engine_refusal)
    return make_fastapi_ingress(ingress, endpoint_map=ENDPOINTS, app=app)


def model_cards(config: LLMConfig) -> dict[str, Any]:
    """What `/v1/models` says; the length is None where the engine fits it to its memory."""
    length = config.max_request_context_length
    known = {"max_request_context_length": length if length and length > 0 else None}
    return {config.model_id: to_model_metadata(config.model_id, config, known)}


async def _on_serve_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, OpenAIHTTPException)
    return refusal_response(RequestRefused(error.status_code, error.message))


async def _on_engine_refusal(request: Request, error: Exception) -> Response:
    return refusal_response(refused_by_engine(400, str(error)))
