"""Schemathesis makes requests from the OpenAPI document, and holds every answer against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
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

WITHOUT_INPUT = frozenset({"readHealth", "headHealth"})
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
        if mode is GenerationMode.POSITIVE:
            case.body = with_whole_numbers_in_digits(case.body)
        answer = case.call(session=session, headers=key_of(lonely))
        case.validate_response(answer, checks=CHECKS, headers=key_of(lonely))

    check()
    check_log(lonely.server.log)
