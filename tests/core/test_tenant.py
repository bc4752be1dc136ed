"""Names of tenants."""

from __future__ import annotations

import pytest

from ebus import TenantName
from ebus.core.errors import InvalidTenantName


@pytest.mark.parametrize("name", ["alice", "a", "A-1_b", "-", "_", "0", "x" * 100])
def test_a_name_is_letters_digits_underscores_and_hyphens(name: str) -> None:
    assert TenantName(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "../x",
        "a/b",
        "a\\b",
        ".",
        "..",
        "a.b",
        "alice\n",
        "\nalice",
        "a\0",
        "ä",
        "a٣",
        "x" * 101,
    ],
)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidTenantName, match="is no tenant name"):
        TenantName(name)


def test_the_longest_name_can_be_set() -> None:
    assert TenantName("x" * 150, max_chars=150)
    with pytest.raises(InvalidTenantName, match="4 characters, at most 3"):
        TenantName(TenantName("abcd"), max_chars=3)
