"""Checkpoints over HTTP."""

from __future__ import annotations

import pytest

from tests.http.conftest import TenantClient

LARGEST = 2**63 - 1


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_saved_position_is_read_back(client: TenantClient, method: str) -> None:
    saved = client.request(method, "/subscriptions/my-sub/position", json={"position": 42})
    assert (saved.status_code, saved.content) == (204, b"")
    assert client.get("/subscriptions/my-sub/position").content == b'{"position":42}'


def test_a_position_that_was_never_saved_is_0(client: TenantClient) -> None:
    assert client.get("/subscriptions/never/position").json() == {"position": 0}


@pytest.mark.parametrize("position", [0, 1, LARGEST])
def test_any_position_may_be_saved_even_ahead_of_the_head_or_backwards(
    client: TenantClient, position: int
) -> None:
    client.put("/subscriptions/s/position", json={"position": 7})
    assert client.put("/subscriptions/s/position", json={"position": position}).status_code == 204
    assert client.get("/subscriptions/s/position").json() == {"position": position}


def test_a_checkpoint_is_its_tenants_own(client: TenantClient, bystander: TenantClient) -> None:
    client.put("/subscriptions/s/position", json={"position": 7})
    assert bystander.get("/subscriptions/s/position").json() == {"position": 0}


@pytest.mark.parametrize(
    "id", ["a", "orders:mailer", "svc.projection-1", "mailer@v2", "x" * 255, "a~b", "...", "(1)"]
)
def test_an_id_may_be_whatever_a_path_holds_unescaped(client: TenantClient, id: str) -> None:
    client.put(f"/subscriptions/{id}/position", json={"position": 3})
    assert client.get(f"/subscriptions/{id}/position").json() == {"position": 3}


def test_an_escaped_id_is_the_same_as_an_unescaped_one(client: TenantClient) -> None:
    client.put("/subscriptions/a-b/position", json={"position": 3})
    assert client.get("/subscriptions/%61%2Db/position").json() == {"position": 3}


def test_unknown_fields_are_ignored_but_do_not_stand_in_for_the_position(
    client: TenantClient,
) -> None:
    path = "/subscriptions/s/position"
    assert client.put(path, json={"position": 5, "note": "x"}).status_code == 204
    assert client.put(path, json={"postion": 9}).status_code == 400
    assert client.get(path).json() == {"position": 5}
