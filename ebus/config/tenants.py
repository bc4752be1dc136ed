"""The tenants of the config file, each on its own and all among themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import get_args

import msgspec
from yaml.nodes import Node, SequenceNode

from ebus.config.api_key import ApiKey, KeyWarnings, parse_api_key, parse_digest
from ebus.config.mistakes import FileMistakes, Wrong
from ebus.config.model import KeyConfig, Scope, TenantConfig, TenantLimits
from ebus.config.moments import parse_moment
from ebus.config.nodes import (
    Key,
    Section,
    choice,
    list_of,
    mapping,
    parsed_by,
    read_line,
    read_switch,
    read_text,
    text_of,
    told,
)
from ebus.config.tenant_limits import TENANT_LIMIT_KEYS, tenant_limits
from ebus.core.engine import Durability
from ebus.core.errors import InvalidTenantName
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName


def _read_api_key(node: Node, mistakes: FileMistakes) -> ApiKey:
    return parse_api_key(text_of(node, shown=False))


def read_digest(node: Node, mistakes: FileMistakes) -> ApiKey:
    return parse_digest(text_of(node, shown=False))


DURABILITY = Key(choice(*get_args(Durability)), "full")

_KEY_ITSELF = {
    "api_key": Key(_read_api_key, '"…"'),
    "api_key_sha256": Key(read_digest, '"…"'),
}

KEY_KEYS = {
    "name": Key(read_line, '"backend"', required=True),
    **_KEY_ITSELF,
    "scope": Key(choice(*get_args(Scope)), "both"),
    "expires_at": Key(parsed_by(parse_moment, "timestamp", "str"), "2027-01-31T00:00:00Z"),
}

_KEY_EXAMPLE = '{name: "backend", api_key_sha256: "…"}'

TENANT_KEYS = {
    "name": Key(read_text, '"alice"', required=True),
    **_KEY_ITSELF,
    "api_keys": Key(list_of("a key", mapping(KEY_KEYS), example=_KEY_EXAMPLE), f"[{_KEY_EXAMPLE}]"),
    "durability": DURABILITY,
    "limits": Key(mapping(TENANT_LIMIT_KEYS), "{max_stored_events: 1000000}"),
}

_ELSEWHERE = {
    **dict.fromkeys(("scope", "expires_at"), "it belongs to a key, below `api_keys:`"),
    **dict.fromkeys(TENANT_LIMIT_KEYS, "it belongs below the tenant's `limits:`"),
}

_EXAMPLE = '{name: "alice", api_key: "…"}'

_read_some = list_of("a tenant", mapping(TENANT_KEYS, elsewhere=_ELSEWHERE), example=_EXAMPLE)


def _read_tenants(node: Node, mistakes: FileMistakes) -> list[Section] | None:
    """None for a list of none, which will do where tenants are made at run time."""
    if isinstance(node, SequenceNode) and not node.value:
        return None
    sections: list[Section] = _read_some(node, mistakes)
    return sections


TENANTS = Key(_read_tenants, f"[{_EXAMPLE}]")


def read_who(node: Node, mistakes: FileMistakes) -> tuple[TenantName, ...] | bool:
    """Reads true for all tenants, false for none, or a list of names.

    Whether there are such tenants is not known here: the registry has some.
    """
    if isinstance(node, SequenceNode):
        return tuple(_read_names(node, mistakes))
    try:
        return read_switch(node, mistakes)
    except Wrong:
        raise Wrong("must be true, false or a list of tenants") from None


def _read_name(node: Node, mistakes: FileMistakes) -> TenantName:
    try:
        return TenantName(read_text(node, mistakes))
    except InvalidTenantName as error:
        raise Wrong(f"is none: {error}") from None


_read_names = list_of("a tenant's name", _read_name, example='"alice"')


class Tenants(msgspec.Struct, frozen=True):
    """The tenants without a mistake, in the file's order."""

    configs: tuple[TenantConfig, ...]
    warnings: list[str]


def check_tenants(
    sections: Sequence[Section],
    limits: Limits,
    default_limits: TenantLimits,
    mistakes: FileMistakes,
) -> Tenants:
    """Check every tenant's name, and that no two share a name or a key."""
    taken_names: dict[str, tuple[TenantName, int]] = {}
    keys = _Keys(mistakes)
    configs: list[TenantConfig] = []
    for number, section in enumerate(sections, 1):
        name = _checked_name(section, limits, taken_names, mistakes)
        tenant_keys = keys.of(section, name or f"number {number} of the list")
        own_limits = default_limits
        if "limits" in section.values:
            own_limits = tenant_limits(section.values["limits"], default_limits, mistakes)
        if name is not None and tenant_keys:
            durability = section.values.get("durability")
            configs.append(
                TenantConfig(name=name, keys=tenant_keys, durability=durability, limits=own_limits)
            )
    return Tenants(tuple(configs), keys.warnings.sentences())


class _Keys:
    """The keys of all tenants, of which no two may be the same."""

    def __init__(self, mistakes: FileMistakes) -> None:
        self._mistakes = mistakes
        self._taken: set[bytes] = set()
        self.warnings = KeyWarnings()

    def of(self, section: Section, tenant: str) -> tuple[KeyConfig, ...]:
        """The tenant's keys without a mistake, its own one first."""
        named = section.values.get("api_keys")
        own = self._key_in(section, tenant, required="api_keys" not in section.lines)
        keys = [] if own is None else [KeyConfig(digest=own.digest)]
        if named is not None:
            keys += self._named(named, tenant)
        return tuple(keys)

    def _named(self, sections: Sequence[Section], tenant: str) -> Iterator[KeyConfig]:
        lines: dict[str, int] = {}
        for section in sections:
            name = section.values.get("name")
            if name in lines:
                self._mistakes.add(
                    section.lines["name"],
                    f"duplicate key name for tenant: {tenant}; line {lines[name]} has it too, "
                    "choose another",
                )
            elif name is not None:
                lines[name] = section.lines["name"]
            key = self._key_in(section, tenant, required=True)
            if key is None or name is None:
                continue
            config = KeyConfig(
                digest=key.digest,
                name=name,
                scope=section.values.get("scope", "both"),
                expires_at_s=section.values.get("expires_at"),
            )
            if config.expires_at_s is not None and config.expires_at_s <= time.time():
                self.warnings.add_expired(name, tenant)
            yield config

    def _key_in(self, section: Section, tenant: str, *, required: bool) -> ApiKey | None:
        given = [name for name in _KEY_ITSELF if name in section.lines]
        if not given:
            if required:
                example = _KEY_ITSELF["api_key"].example
                self._mistakes.add(section.line, told("api_key", Wrong("is missing"), example))
            return None
        if len(given) > 1:
            message = "api_key_sha256 stands in the place of api_key; keep one of them"
            self._mistakes.add(section.lines["api_key_sha256"], message)
        key: ApiKey | None = section.values.get(given[0])
        if key is None:
            return None
        if key.digest in self._taken:
            self._mistakes.add(
                section.lines[given[0]],
                f"duplicate API key for tenant: {tenant}; give every tenant a key of its own",
            )
        self._taken.add(key.digest)
        if key.is_short:
            self.warnings.add_short(tenant)
        return key


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
