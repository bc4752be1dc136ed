"""In which streams a tenant may be: ours, and such that nothing of what is stored is lost."""

from __future__ import annotations

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.naming import Names
from ebus.backends.jetstream.stream import StreamConfig
from ebus.core.errors import StoreForeign, StoreNewer, StoreRefused

FORMAT = 1
"""Of what is stored; in the metadata of the streams."""

TENANT_KEY, FORMAT_KEY = "ebus.tenant", "ebus.format"


def metadata_of(tenant: str) -> dict[str, str]:
    return {TENANT_KEY: str(tenant), FORMAT_KEY: str(FORMAT)}


def subjects_of(names: Names, stream: str) -> list[str]:
    """What a tenant's log, or its bucket, takes."""
    return [names.events, names.gap] if stream == names.log else [f"{names.keys}.>"]


def check_owner(config: StreamConfig, tenant: str) -> None:
    """Raise `StoreForeign` for a stream that is not this tenant's, `StoreNewer` for a later one."""
    name, metadata = config.name, config.metadata
    if metadata.get(TENANT_KEY) != tenant:
        raise StoreForeign(
            f"the stream {name} is somebody else's: ebus has not made it for {tenant};"
            " delete it, or set another prefix"
        )
    found = metadata.get(FORMAT_KEY, "")
    if not found.isdecimal() or int(found) > FORMAT:
        raise StoreNewer(f"the stream {name} is of a newer ebus")


def check_settings(config: StreamConfig, names: Names) -> None:
    """Raise `StoreRefused` for a stream that loses what it has, or takes nothing.

    An operator may have changed one that was made as it should be.
    """
    is_log = config.name == names.log
    is_limited = config.max_msgs > 0 or config.max_bytes > 0
    is_ours = set(subjects_of(names, config.name)) <= set(config.subjects)
    wrong = [
        word
        for word, is_wrong in (
            ("retention is not limits", config.retention != "limits"),
            ("max_age is set", config.max_age > 0),
            ("discard is old, with a limit", config.discard != "new" and is_limited),
            ("max_msgs_per_subject is set", is_log and config.max_msgs_per_subject > 0),
            ("allow_direct is off", not config.allow_direct),
            ("allow_atomic is off", not config.allow_atomic),
            ("persist_mode is async", config.persist_mode == "async"),
            ("its subjects are others", not is_ours),
            ("it is sealed", config.sealed),
        )
        if is_wrong
    ]
    if wrong:
        raise StoreRefused(
            f"the stream {config.name} would lose events, or cannot take them: " + ", ".join(wrong)
        )


def weaknesses(config: StreamConfig, options: Options) -> list[str]:
    """What a tenant's stream has less than was asked for: a few words each, with the setting."""
    found = []
    if config.num_replicas < options.replicas:
        found.append(f"replicas is {options.replicas}, and it has {config.num_replicas}")
    if config.storage == "memory" and (options.storage != "memory" or options.require_durable):
        found.append("it is in memory, whatever storage says")
    return found
