"""The name of a tenant, and the only parser of such names."""

from __future__ import annotations

import re
from typing import Any

from ebus.core.errors import InvalidTenantName
from ebus.core.limits import Limits

NAME_PATTERN = "[A-Za-z0-9_-]+"

_NAME = re.compile(NAME_PATTERN)


class TenantName(str):
    """A tenant's name that has been checked: 1 to `max_chars` of `A-Z a-z 0-9 _ -`.

    It is safe as a file name, a URL segment and a log field. Raises `InvalidTenantName`.
    """

    __slots__ = ()

    def __new__(cls, name: str, *, max_chars: int = Limits().max_tenant_name_chars) -> TenantName:
        if isinstance(name, TenantName) and len(name) <= max_chars:
            return name
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidTenantName(
                f"{_shown(name)} is no tenant name: "
                f"use 1 to {max_chars} of the characters A-Z a-z 0-9 _ -"
            )
        if len(name) > max_chars:
            raise InvalidTenantName(
                f"{_shown(name)} is no tenant name: "
                f"it has {len(name)} characters, at most {max_chars} are allowed"
            )
        return super().__new__(cls, name)

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """For pickle: it has been checked, however long it may be."""
        return (str(self),), {"max_chars": len(self)}


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 48 else f"{text[:44]}...{text[-1]}"
