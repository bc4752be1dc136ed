"""The tenants of the config file, each on its own and all among themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec
from yaml.nodes import Node

from ebus.config.api_key import ApiKey, parse_api_key
from ebus.config.mistakes import FileMistakes
from ebus.config.model import TenantConfig
from ebus.config.nodes import Key, Section, choice, list_of, mapping, read_text, text_of
from ebus.core.engine import Durability
from ebus.core.errors import InvalidTenantName
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName


def _read_api_key(node: Node, mistakes: FileMistakes) -> ApiKey:
    return parse_api_key(text_of(node, shown=False))


DURABILITY = Key(choice(*get_args(Durability)), "full")

TENANT_KEYS = {
    "name": Key(read_text, '"alice"', required=True),
    "api_key": Key(_read_api_key, '"…"', required=True),
    "durability": DURABILITY,
}

_EXAMPLE = '{name: "alice", api_key: "…"}'

TENANTS = Key(
    list_of("a tenant", mapping(TENANT_KEYS), example=_EXAMPLE), f"[{_EXAMPLE}]", required=True
)


class Tenants(msgspec.Struct, frozen=True):
    """The tenants without a mistake, in the file's order."""

    configs: tuple[TenantConfig, ...]
    with_short_keys: list[str]


def check_tenants(sections: Sequence[Section], limits: Limits, mistakes: FileMistakes) -> Tenants:
    """Check every tenant's name, and that no two share a name or a key."""
    taken_names: dict[str, tuple[TenantName, int]] = {}
    taken_digests: set[bytes] = set()
    configs: list[TenantConfig] = []
    with_short_keys: list[str] = []
    for number, section in enumerate(sections, 1):
        name = _checked_name(section, limits, taken_names, mistakes)
        key: ApiKey | None = section.values.get("api_key")
        if key is None:
            continue
        if key.digest in taken_digests:
            mistakes.add(
                section.lines["api_key"],
                f"duplicate API key for tenant: {name or f'number {number} of the list'}; "
                "give every tenant a key of its own",
            )
        taken_digests.add(key.digest)
        if name is None:
            continue
        durability = section.values.get("durability")
        configs.append(TenantConfig(name=name, key_digest=key.digest, durability=durability))
        if key.is_short:
            with_short_keys.append(name)
    return Tenants(tuple(configs), with_short_keys)


def _checked_name(
    section: Section,
    limits: Limits,
    taken: dict[str, tuple[TenantName, int]],
    mistakes: FileMistakes,
) -> TenantName | None:
    """The tenant's name, added to those taken; None when it cannot be read."""
    if "name" not in section.values:
        return None
    line = section.lines["name"]
    try:
        name = TenantName(section.values["name"], max_chars=limits.max_tenant_name_chars)
    except InvalidTenantName as error:
        mistakes.add(line, str(error))
        return None
    if name.lower() not in taken:
        taken[name.lower()] = (name, line)
        return name
    twin, twin_line = taken[name.lower()]
    if twin == name:
        message = f"duplicate tenant name {name}: line {twin_line} has it too; choose another"
    else:
        message = (
            f"tenant name {name} differs from {twin} in line {twin_line} only in upper and lower "
            "case, which not every file system tells apart; choose another"
        )
    mistakes.add(line, message)
    return name
