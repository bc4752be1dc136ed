"""OpenTelemetry: a span for each request. An extra, `ebus[otel]`, and off unless it is asked for.

Where spans go, how many are kept and what the service is called is read by OpenTelemetry itself,
from `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME` and the like. While
it is on, every request goes by ASGI, where the span is; while it is off, there is nothing to it.
"""

from __future__ import annotations

from typing import Protocol

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

import ebus
from ebus.http.request_id import request_now

DEFAULT_SERVICE_NAME = "ebus"


class Traces(Protocol):
    """What makes spans, and sends them away."""

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application with a span around each request."""
        ...

    def close(self) -> None:
        """Send what is left. It may take seconds."""
        ...


class OtelTraces:
    """Spans by OpenTelemetry's own kit. To be made in the process that serves: it has threads."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider or _provider()
        self._tracer = self._provider.get_tracer("ebus", ebus.__version__)

    def around(self, app: ASGIApp) -> ASGIApp:
        return _Traced(app, self._tracer)

    def close(self) -> None:
        self._provider.shutdown()


def _provider() -> TracerProvider:
    # What the environment says of the service comes last, and so before this.
    resource = Resource({SERVICE_NAME: DEFAULT_SERVICE_NAME, SERVICE_VERSION: ebus.__version__})
    provider = TracerProvider(resource=resource.merge(_of_environment()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _of_environment() -> Resource:
    found = Resource.create().attributes
    unsaid = str(found.get(SERVICE_NAME, "")).startswith("unknown_service")
    return Resource(
        {name: it for name, it in found.items() if not (unsaid and name == SERVICE_NAME)}
    )


class _Traced:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        carrier = {name: sent[name] for name in ("traceparent", "tracestate") if name in sent}
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method,
            extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.scheme": scope["scheme"]},
        ) as span:

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note(span, scope, message["status"])
                await send(message)

            await self._app(scope, receive, send_noted)


def _note(span: Span, scope: HTTPScope, status: int) -> None:
    """What is known once the answer begins. The path itself may hold anything, and is left out."""
    span.set_attribute("http.response.status_code", status)
    state = scope.get("state", {})
    if route := state.get("route") or scope.get("path_template"):
        span.set_attribute("http.route", route)
        span.update_name(f"{scope['method']} {route}")
    request = request_now()
    if request is not None:
        span.set_attribute("ebus.request_id", request.id)
        if request.tenant is not None:
            span.set_attribute("ebus.tenant", request.tenant)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
