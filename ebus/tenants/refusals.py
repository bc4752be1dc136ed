"""Why a name is not for the registry: the server and the command refuse in the same words."""

from __future__ import annotations

from collections.abc import Iterable

from ebus.config import TenantConfig
from ebus.core.errors import TenantExists, TenantInFile
from ebus.core.tenant import TenantName


def refuse_taken_by_file(of_file: Iterable[TenantConfig], name: TenantName) -> None:
    """Raise `TenantExists` where one of these has the name, in upper or lower case."""
    for tenant in of_file:
        if tenant.name.lower() == name.lower():
            raise TenantExists(f"there is a tenant {tenant.name} in the config file")


def refuse_of_file(of_file: Iterable[TenantConfig], name: str) -> None:
    """Raise `TenantInFile` where the name is that of one of these, who are changed there."""
    if any(tenant.name == name for tenant in of_file):
        raise TenantInFile(f"tenant {name} is in the config file: change it there")


def data_from_before(name: TenantName) -> TenantExists:
    """What to raise where something is stored under a name that nobody has."""
    return TenantExists(
        f"there is data of a tenant {name} from before, which is in no config: move it away, or "
        "serve it from the config file"
    )
