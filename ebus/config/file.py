"""The config file: its keys, and what they come to."""

from __future__ import annotations

from typing import get_args

import msgspec

from ebus.config.api_key import ApiKey
from ebus.config.document import ConfigFile, parse_document, read_config_file
from ebus.config.engine_address import engine_address
from ebus.config.engine_settings import read_engine
from ebus.config.environment import VARIABLES
from ebus.config.mistakes import FileMistakes, Mistake, Reading, Wrong
from ebus.config.model import ADMIN, AdminKey, TenantLimits, Visible
from ebus.config.networks import parse_network
from ebus.config.nodes import (
    Key,
    Section,
    choice,
    line_of,
    list_of,
    mapping,
    parsed_by,
    read_directory,
    read_line,
    read_switch,
    read_whole_number,
    told,
)
from ebus.config.tenant_limits import TENANT_LIMIT_KEYS, tenant_limits
from ebus.config.tenants import (
    DURABILITY,
    KEY_KEYS,
    TENANT_KEYS,
    TENANTS,
    Tenants,
    check_tenants,
    read_digest,
    read_who,
)
from ebus.core.address import Address
from ebus.core.errors import EngineError
from ebus.core.limits import Limits

LIMIT_KEYS = {
    field.name: Key(read_whole_number, str(field.default))
    for field in msgspec.structs.fields(Limits)
}

_ADMIN_KEY_EXAMPLE = '{name: "anna", api_key_sha256: "…"}'

ADMIN_KEY_KEYS = {
    "name": Key(read_line, '"anna"', required=True),
    "api_key_sha256": Key(read_digest, '"…"', required=True),
}

TOP_KEYS = {
    "data_dir": Key(read_directory, '"data"'),
    "engine": Key(read_engine, "sqlite"),
    "store_backend": Key(read_line, "sqlite"),  # the original's word for the engine
    "durability": DURABILITY,
    "limits": Key(mapping(LIMIT_KEYS), "{max_read_events: 10000}"),
    "tenant_limits": Key(mapping(TENANT_LIMIT_KEYS), "{max_stored_events: 1000000}"),
    "read_only": Key(read_who, "true"),
    "tenants_visible": Key(choice(*get_args(Visible)), "all"),
    "trusted_proxies": Key(
        list_of("a proxy", parsed_by(parse_network, "str"), example='"10.0.0.0/8"'),
        '["10.0.0.0/8"]',
    ),
    "admin_key_sha256": Key(read_digest, '"…"'),
    "admin_keys": Key(
        list_of("a key", mapping(ADMIN_KEY_KEYS), example=_ADMIN_KEY_EXAMPLE),
        f"[{_ADMIN_KEY_EXAMPLE}]",
    ),
    "watch_config": Key(read_switch, "true"),
    "tenants": TENANTS,
}

FILE_KEYS: tuple[str, ...] = (
    *TOP_KEYS,
    *(f"limits.{name}" for name in LIMIT_KEYS),
    *(f"tenant_limits.{name}" for name in TENANT_LIMIT_KEYS),
    *(f"tenants.{name}" for name in TENANT_KEYS),
    *(f"tenants.api_keys.{name}" for name in KEY_KEYS),
    *(f"admin_keys.{name}" for name in ADMIN_KEY_KEYS),
)
"""Every key of the file. Those within another have dots, as in `tenants.api_key`.

`tenants.limits` has the keys of `tenant_limits`.
"""

_ELSEWHERE = {
    **dict.fromkeys(LIMIT_KEYS, "it belongs below `limits:`"),
    **dict.fromkeys(TENANT_LIMIT_KEYS, "it belongs below `tenant_limits:`"),
    **dict.fromkeys(
        TENANT_KEYS.keys() - TOP_KEYS,
        "it belongs to a tenant, indented like the tenant's other keys",
    ),
    **{name.lower(): f"it is set in the environment, as {name}" for name in VARIABLES},
    "<<": "merging is not supported, write the keys out",
}

_read_top = mapping(TOP_KEYS, elsewhere=_ELSEWHERE)


def read_file(path: str, file: ConfigFile | None = None) -> Reading:
    """What the config file says, and all its mistakes. Never raises.

    With `file` it has been read already.
    """
    try:
        file = file or read_config_file(path)
    except Wrong as wrong:
        return Reading({}, [unreadable(wrong)], [])
    warnings = list(file.warnings)
    mistakes = FileMistakes(path)
    top = _top_section(file.data, mistakes)
    if top is None:
        return Reading({}, mistakes.in_order(), warnings)
    limits = Limits(**(top.values["limits"].values if "limits" in top.values else {}))
    default_limits = TenantLimits()
    if "tenant_limits" in top.values:
        default_limits = tenant_limits(top.values["tenant_limits"], default_limits, mistakes)
    _need_tenants(top, mistakes)
    tenants = check_tenants(top.values.get("tenants") or [], limits, default_limits, mistakes)
    fields = {
        "config_file": path,
        **_engine_fields(top, mistakes, warnings),
        "durability": top.values.get("durability", "full"),
        "tenants": tenants.configs,
        "tenant_limits": default_limits,
        "limits": limits,
        "read_only": top.values.get("read_only", False),
        "tenants_visible": top.values.get("tenants_visible", "all"),
        "trusted_proxies": tuple(top.values.get("trusted_proxies", ())),
        "admin_key_digest": _admin_key_digest(top),
        "admin_keys": _admin_keys(top, tenants, mistakes),
        "watch_config": top.values.get("watch_config", True),
    }
    warnings.extend(tenants.warnings)
    found = mistakes.in_order()
    return Reading({} if found else fields, found, warnings)


def unreadable(wrong: Wrong) -> Mistake:
    """The mistake that a file is which cannot be read."""
    return Mistake("", f"read config file: {wrong}")


def _top_section(data: bytes, mistakes: FileMistakes) -> Section | None:
    root = parse_document(data, mistakes)
    if root is None:
        return None
    try:
        section: Section = _read_top(root, mistakes)
    except Wrong as wrong:
        mistakes.add(line_of(root), f"the file {wrong}; write `tenants: {TENANTS.example}`")
        return None
    return section


def _need_tenants(top: Section, mistakes: FileMistakes) -> None:
    """There must be some, unless there is an admin key with which to make them."""
    if "admin_key_sha256" in top.lines or "admin_keys" in top.lines:
        return
    if "tenants" not in top.lines:
        mistakes.add(top.line, told("tenants", Wrong("is missing"), TENANTS.example))
    elif top.values.get("tenants", ()) is None:
        mistakes.add(top.lines["tenants"], told("tenants", Wrong("is empty"), TENANTS.example))


def _admin_key_digest(top: Section) -> bytes | None:
    key: ApiKey | None = top.values.get("admin_key_sha256")
    return None if key is None else key.digest


def _admin_keys(top: Section, tenants: Tenants, mistakes: FileMistakes) -> tuple[AdminKey, ...]:
    """Those with a name. No admin key may open a tenant, and no two may share a name or a key."""
    owners = {key.digest: it.name for it in tenants.configs for key in it.keys}
    names: dict[str, int] = {ADMIN: top.lines.get("admin_key_sha256", 0)}
    taken: set[bytes] = set()

    def check(key: ApiKey, line: int) -> None:
        if key.digest in owners:
            owner = owners[key.digest]
            mistakes.add(line, f"the admin key is an API key of tenant {owner}; make another one")
        if key.digest in taken:
            mistakes.add(line, "duplicate admin key; give everybody a key of their own")
        taken.add(key.digest)

    if (own := top.values.get("admin_key_sha256")) is not None:
        check(own, top.lines["admin_key_sha256"])
    found = []
    for section in top.values.get("admin_keys", ()):
        name, key = section.values.get("name"), section.values.get("api_key_sha256")
        if name in names:
            where = f"line {names[name]} has it too" if names[name] else "it is admin_key_sha256's"
            mistakes.add(section.lines["name"], f"duplicate admin key name; {where}")
        elif name is not None:
            names[name] = section.lines["name"]
        if key is not None:
            check(key, section.lines["api_key_sha256"])
        if name is not None and key is not None:
            found.append(AdminKey(name, key.digest))
    return tuple(found)


def _engine_fields(top: Section, mistakes: FileMistakes, warnings: list[str]) -> dict[str, str]:
    """The engine's address and the data directory."""
    key = "engine" if "engine" in top.lines else "store_backend"
    if key == "engine" and "store_backend" in top.lines:
        message = "store_backend is the older name of engine; keep only engine"
        mistakes.add(top.lines["store_backend"], message)
    engine: str | None = top.values.get(key, "sqlite")
    data_dir: str = top.values.get("data_dir", "data")
    if engine is None:
        return {}  # it has mistakes, so that nothing is made of the file
    address = engine
    try:
        address = engine_address(engine, data_dir)
    except Wrong as wrong:
        mistakes.add(top.lines[key], told(key, wrong, TOP_KEYS[key].example))
    except EngineError as error:  # its driver is missing
        mistakes.add(top.lines[key], str(error))
    location = engine.partition(":")[2]
    if location and "data_dir" in top.values and location != data_dir:
        warnings.append(f"data_dir is not used: {key} names a place of its own")
    elif location and not location.startswith("//"):
        data_dir = location
    return {"engine": Address(address), "data_dir": data_dir}
