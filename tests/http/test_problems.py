"""Errors on the wire: every one has its status, and none says more than it should."""

from __future__ import annotations

import msgspec
import pytest

from ebus.core import errors
from ebus.core.errors import (
    CheckpointConflict,
    EbusError,
    EventTooLarge,
    InvalidEvent,
    VersionConflict,
)
from ebus.http.problems import problem_of

STATUSES = {
    "EbusError": 500,
    "InvalidInput": 400,
    "InvalidTenantName": 400,
    "InvalidEvent": 400,
    "InvalidBatch": 400,
    "InvalidRange": 400,
    "InvalidFilter": 400,
    "InvalidExpectation": 400,
    "InvalidCheckpoint": 400,
    "InvalidLease": 400,
    "InvalidLimits": 400,
    "NotConfirmed": 400,
    "Conflict": 409,
    "IdConflict": 409,
    "PositionConflict": 409,
    "VersionConflict": 409,
    "MatchConflict": 409,
    "CheckpointConflict": 412,
    "LeaseLost": 409,
    "TooManyParked": 409,
    "TenantExists": 409,
    "TenantInFile": 409,
    "NotSuspended": 409,
    "KeyExists": 409,
    "UnknownTenant": 404,
    "UnknownKey": 404,
    "UnknownTrash": 404,
    "EventTooLarge": 413,
    "EngineError": 503,
    "UnknownEngine": 503,
    "EngineNotInstalled": 503,
    "StoreError": 503,
    "StoreBusy": 503,
    "StoreClosed": 503,
    "StoreFull": 507,
    "QuotaExceeded": 507,
    "StoreOverloaded": 503,
    "StoreReadOnly": 503,
    "StoreUnavailable": 503,
    "StoreUnreachable": 503,
    "OutcomeUnknown": 503,
    "StoreRefused": 503,
    "StoreDamaged": 503,
    "StoreForeign": 503,
    "StoreNewer": 503,
}
ERRORS = {
    name: error
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, EbusError)
}


def test_every_error_is_pinned_to_a_status() -> None:
    assert set(ERRORS) == set(STATUSES)


@pytest.mark.parametrize("name", STATUSES)
def test_an_error_has_its_status(name: str) -> None:
    problem = problem_of(ERRORS[name]("message"))
    assert problem.status == STATUSES[name]
    assert problem.code == ("internal_error" if name == "EbusError" else ERRORS[name].code)
    if problem.status == 503:
        assert int(problem.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("name", [name for name, status in STATUSES.items() if status >= 500])
def test_what_is_for_the_operator_does_not_reach_a_client(name: str) -> None:
    answer = problem_of(ERRORS[name]("/var/lib/ebus/alice.db: SELECT failed"))
    assert b"alice" not in answer.body()
    assert b"SELECT" not in answer.body()


@pytest.mark.parametrize("error", [RuntimeError("/secret/path"), KeyError("x"), OSError(5, "x")])
def test_what_nobody_expected_is_500_and_says_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    problem = problem_of(error)
    assert problem.status == 500
    assert b"secret" not in problem.body()
    assert "a request failed" in caplog.text


def test_an_event_is_named_by_its_place() -> None:
    error = InvalidEvent("must not be empty", index=3, field="type")
    assert problem_of(error).detail == "$[3].type: must not be empty"
    assert problem_of(EventTooLarge("is large", index=2)).detail == "$[2]: is large"


def test_a_problem_is_an_rfc_9457_document() -> None:
    assert msgspec.json.decode(problem_of(InvalidEvent("no", index=0)).body()) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "$[0]: no",
        "code": "invalid_event",
        "index": 0,
    }


def test_a_conflict_says_what_is_current() -> None:
    problem = msgspec.json.decode(problem_of(VersionConflict("no", current=3)).body())
    assert (problem["status"], problem["code"], problem["current"]) == (409, "version_conflict", 3)
    answer = problem_of(CheckpointConflict("no", current=3))
    assert answer.headers == {"ETag": '"3"'}
