"""The OpenAPI document: valid, complete, and true to what is answered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from litestar.routes import HTTPRoute
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from ebus.config import Config, load_config
from ebus.http.app import create_routes
from ebus.http.openapi import openapi_document
from ebus.http.routes import event_routes
from ebus.http.tenancy import Tenancy
from tests.http.conftest import TenantClient, write_config

OF_OPEN_PATHS = {
    "/health": {"400", "503"},
    "/ui": {"304", "500"},
    "/ui/{file}": {"304", "404", "500"},
    "/docs": {"304", "500"},
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "tenants.yaml"
    tenants = [{"name": "a", "api_key": "k" * 40}]
    config = {"data_dir": str(tmp_path), "admin_key_sha256": "0" * 64, "tenants": tenants}
    write_config(path, config)
    return load_config(str(path), {})


@pytest.fixture
def document(config: Config) -> dict[str, Any]:
    return openapi_document(config)


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document, cls=OpenAPIV31SpecValidator)


def test_it_describes_every_route_and_no_other(config: Config, document: dict[str, Any]) -> None:
    tenancy = Tenancy(config)
    routes = {
        (re.sub(r":\w+}", "}", route.path_format), method.lower())
        for route in create_routes(config, tenancy, event_routes(config, tenancy.live)).routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
        if method != "OPTIONS"
    }
    described = {
        (path, method) for path, methods in document["paths"].items() for method in methods
    }
    assert described == routes


def test_a_single_tenant_has_no_list_of_tenants(tmp_path: Path) -> None:
    config = load_config(None, {"API_KEY": "k" * 40, "DB_PATH": str(tmp_path / "events.db")})
    assert "/tenants" not in openapi_document(config)["paths"]


def test_without_an_admin_key_there_is_nothing_for_it(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    write_config(path, {"tenants": [{"name": "a", "api_key": "k" * 40}]})
    paths = openapi_document(load_config(str(path), {}))["paths"]
    assert not [path for path in paths if path.startswith("/admin")]


def test_every_operation_says_what_may_go_wrong(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            expected = OF_OPEN_PATHS.get(path, {"401", "429", "500", "503"})
            if method in ("post", "put", "patch"):
                expected |= {"400", "408", "413", "415", "507"}
            assert expected <= set(operation["responses"]), (method, path)


def test_the_limits_stand_in_it(document: dict[str, Any]) -> None:
    events = document["paths"]["/events"]["get"]["responses"]["200"]["content"]
    assert events["application/json"]["schema"]["maxItems"] == 10_000
    batch = document["paths"]["/events/batch"]["post"]["requestBody"]["content"]
    assert batch["application/json"]["schema"]["maxItems"] == 1_000


def test_it_is_served(client: TenantClient) -> None:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    ("method", "path", "template", "body"),
    [
        ("post", "/events", "/events", {"type": "T", "data": 1}),
        ("post", "/events/batch", "/events/batch", [{"type": "T", "data": 1}]),
        ("get", "/events?from=0", "/events", None),
        ("get", "/events", "/events", None),
        ("get", "/events/stream?from=0", "/events/stream", None),
        ("get", "/position", "/position", None),
        ("get", "/metrics", "/metrics", None),
        ("get", "/tenants", "/tenants", None),
        ("get", "/health", "/health", None),
        ("get", "/subscriptions/s/position", "/subscriptions/{subscription_id}/position", None),
        ("put", "/subscriptions/s/position", "/subscriptions/{subscription_id}/position", {}),
    ],
)
def test_answers_are_as_it_says(
    client: TenantClient, method: str, path: str, template: str, body: object
) -> None:
    document = client.get("/openapi.json").json()
    answer = client.request(method, path, json=body)
    described = document["paths"][template][method]["responses"][str(answer.status_code)]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
    schema = described["content"][answer.headers["content-type"]]["schema"]
    jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
