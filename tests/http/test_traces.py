"""OpenTelemetry: a span for each request, sent to a collector, and none unless they are wanted."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from litestar.types import Message, Receive, Scope, Send
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from ebus.config import ConfigError, load_config
from ebus.http.server import TracesNotInstalled, make_traces
from ebus.http.traces import OtelTraces
from tests.http.scrapes import ADMIN_KEY, EVENT, KEYS, ask, scraped_server

ENVIRONMENT = {"API_KEY": "k" * 40}


class Collector(HTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[bytes] = []

    @property
    def spans(self) -> dict[str, tuple[str, str, dict[str, str], str]]:
        """By name: trace and parent in hexadecimal, attributes as text, and the service."""
        found = {}
        for body in self.received:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = next(
                    one.value.string_value
                    for one in resource.resource.attributes
                    if one.key == "service.name"
                )
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    attributes = {
                        one.key: one.value.string_value or str(one.value.int_value)
                        for one in span.attributes
                    }
                    ids = span.trace_id.hex(), span.parent_span_id.hex()
                    found[span.name] = (*ids, attributes, service)
        return found


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        self.server.received.append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_each_request_is_a_span_that_a_collector_gets(tmp_path: Path, collector: Collector) -> None:
    environment = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
    }
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with scraped_server(tmp_path, environment=environment) as server:
        sent = {"traceparent": f"00-{trace}-{parent}-01", "X-Request-Id": "append-1"}
        assert ask(server, "POST", "/events", json=EVENT, headers=sent).status_code == 200
        assert ask(server, "PUT", "/subscriptions/m/position", json={"position": 1}).is_success
        assert ask(server, "GET", "/position?from=secret", "wrong").status_code == 401
        assert ask(server, "GET", "/metrics", ADMIN_KEY).status_code == 200
    spans = collector.spans  # those that were left were sent at the stop
    trace_id, parent_id, attributes, service = spans["POST /events"]
    assert (trace_id, parent_id, service) == (trace, parent, "ebus")
    assert attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/events",
        "http.response.status_code": "200",
        "ebus.request_id": "append-1",
        "ebus.tenant": "alice",
    }
    assert "PUT /subscriptions/{subscription_id}/position" in spans
    assert spans["GET"][2]["http.response.status_code"] == "401"
    assert "ebus.tenant" not in spans["GET"][2]
    for body in collector.received:
        for key in (*KEYS.values(), ADMIN_KEY, "wrong", "secret"):
            assert key.encode() not in body


def test_a_span_of_a_failure_is_an_error() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})

    async def receive() -> Message:
        pytest.fail("nobody reads")

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "method": "GET", "scheme": "http", "headers": [], "path": "/x"}
    app = OtelTraces(provider).around(fail)
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    [span] = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR


def test_there_are_none_unless_they_are_wanted() -> None:
    assert make_traces(load_config(None, ENVIRONMENT)) is None
    assert make_traces(load_config(None, {**ENVIRONMENT, "OTEL_TRACES_EXPORTER": "none"})) is None
    with pytest.raises(ConfigError, match="OTEL_TRACES_EXPORTER=otlp"):
        load_config(None, {**ENVIRONMENT, "OTEL_TRACES_EXPORTER": "console"})


def test_what_is_missing_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ebus.http.traces", None)
    config = msgspec.structs.replace(load_config(None, ENVIRONMENT), traces=True)
    with pytest.raises(TracesNotInstalled, match=r"pip install 'ebus\[otel\]'"):
        make_traces(config)
