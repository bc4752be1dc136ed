"""Schemathesis makes requests from the OpenAPI document, and holds every answer against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from ebus.config import load_config
from ebus.http.openapi import openapi_document
from tests.hostile.conftest import House, house
from tests.hostile.replies import check_log

Operation: TypeAlias = APIOperation[Any, Any, Any, Any]

EXAMPLES = 40

MAX_LAST = 20
"""`max_read_events` of the house."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
]

BY_DESIGN = frozenset({409, 412})
"""What was sent can be, but what is stored says otherwise: with If-Match, or an expectation."""

EXPECTED_TWICE = ("expected_position", "expected_version")
"""What may stand in the query and in the body."""

WITHOUT_INPUT = frozenset(
    {"readHealth", "headHealth", "readPage", "readPageHead", "readDocs", "readDocsHead"}
)
"""Nothing about these can be wrong: no key, no parameter, no body."""


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("schemathesis")) as found:
        yield found


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # no proxy, no .netrc
        yield session


@pytest.fixture(scope="module")
def operations(lonely: House, session: requests.Session) -> dict[str, Operation]:
    """By their ids, as the server itself describes them."""
    answer = session.get(f"{lonely.server.url}/openapi.json", headers=key_of(lonely))
    schema = schemathesis.openapi.from_dict(answer.json())
    schema.config.update(base_url=lonely.server.url)
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(found) == len(operation_ids())
    return {operation.definition.raw["operationId"]: operation for operation in found}


def key_of(house: House) -> dict[str, str]:
    return {"X-API-Key": house.alice.key}


def operation_ids() -> list[str]:
    config = load_config(None, {"API_KEY": "k" * 40, "DB_PATH": str(Path("data", "events.db"))})
    paths = openapi_document(config)["paths"].values()
    return ["listTenants", *(method["operationId"] for path in paths for method in path.values())]


def with_whole_numbers_in_digits(value: Any) -> Any:
    """To JSON Schema 1.0 is an integer; the server says that it is none, and must be let."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: with_whole_numbers_in_digits(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_whole_numbers_in_digits(item) for item in value]
    return value


def can_stand_together(case: Case[Any]) -> bool:
    """Parameters that need, or exclude, one another, which OpenAPI cannot say."""
    operation_id = case.operation.definition.raw["operationId"]
    query = case.query or {}
    if query.keys() & {"from_version", "to_version"} and "stream" not in query:
        return False  # versions are those of a stream
    if operation_id == "readEvents":
        selects = query.keys() & {"type", "stream", "stream_prefix", "since", "until", "last"}
        backward = query.get("direction") == "backward"
        if "wait" in query and ("until" in query or "last" in query or backward):
            return False  # what comes is neither in the past nor the last there is
        if "from" not in query and not (selects - ({"type"} if not query.get("type") else set())):
            return "direction" in query  # or else it would be asked for everything
    if operation_id == "streamEvents":
        if not (query.keys() & {"from", "last", "stream", "stream_prefix", "since", "until"}):
            return False  # or else it would be asked for everything
        if isinstance(query.get("last"), int) and query["last"] > MAX_LAST:
            return False  # an operator's limit
    if operation_id in {"appendEvent", "appendBatch"}:
        body: Any = case.body if isinstance(case.body, (dict, list)) else {}
        expects = "expected_version" in query or (
            isinstance(body, dict) and body.get("expected_version") is not None
        )
        events = body if isinstance(body, list) else body.get("events", [body])
        streams = {one.get("stream") for one in events if isinstance(one, dict)}
        if expects and (len(streams) != 1 or None in streams):
            return False  # it is the version of one stream
        if isinstance(body, dict):
            if any(name in query and body.get(name) is not None for name in EXPECTED_TWICE):
                return False  # they would have to be the same
            if expects and body.get("expected_versions"):
                return False
    return True


def leaves_from_aside(case: Case[Any]) -> bool:
    """Where a stream goes on, `from` is not looked at, and may be wrong."""
    return "from" in (case.query or {}) and "Last-Event-ID" in (case.headers or {})


def never_ends(case: Case[Any]) -> bool:
    """Such an answer is for tests/http/test_live.py: here all of it would be waited for."""
    said = (case.query or {}).get("follow")
    return case.operation.definition.raw["operationId"] == "streamEvents" and said == "true"


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("operation_id", operation_ids())
def test_every_answer_is_as_the_document_says(
    lonely: House,
    session: requests.Session,
    operations: dict[str, Operation],
    torture: int | None,
    operation_id: str,
    mode: GenerationMode,
) -> None:
    """Whatever fits the document is accepted, whatever does not is refused, as it says."""
    if mode is GenerationMode.NEGATIVE and operation_id in WITHOUT_INPUT:
        return

    @settings(
        max_examples=torture or EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(case=operations[operation_id].as_strategy(generation_mode=mode))
    def check(case: Case[Any]) -> None:
        assume(not never_ends(case))
        if mode is GenerationMode.POSITIVE:
            assume(can_stand_together(case))
            case.body = with_whole_numbers_in_digits(case.body)
        else:
            assume(not leaves_from_aside(case))
        answer = case.call(session=session, headers=key_of(lonely))
        checks = CHECKS
        if mode is GenerationMode.POSITIVE:  # a body that may be left out is called negative
            checks = [check for check in CHECKS if check is not negative_data_rejection]
        if answer.status_code in BY_DESIGN:
            checks = [check for check in checks if check is not positive_data_acceptance]
        case.validate_response(answer, checks=checks, headers=key_of(lonely))

    check()
    check_log(lonely.server.log)
