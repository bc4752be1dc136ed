"""The text of a test server's configuration file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

SYSTEM_USER = "sys"
SYSTEM_PASSWORD = "password"
SYSTEM_ACCOUNT = f"$SYS {{ users: [{{ user: {SYSTEM_USER}, password: {SYSTEM_PASSWORD} }}] }}"
"""Who may ask the servers themselves. A `config` with `accounts` has to have it among them: they
take the place of these."""

CLUSTER = "tests"

POOL = 3
ROUTES_EACH = POOL + 1
"""How many connections there are between two servers: one is the system account's."""


def configuration(
    *, name: str, client: str, monitor: str, store: Path | None, sync: str | None, more: str
) -> str:
    """`client` and `monitor` are addresses to listen at; without a store it has no JetStream."""
    lines = [
        f"server_name: {name}",
        f'listen: "{client}"',
        f'http: "{monitor}"',
        f"accounts {{ {SYSTEM_ACCOUNT} }}",
    ]
    if store is not None:
        jetstream = f"store_dir: {json.dumps(str(store))}"
        if sync is not None:
            jetstream += f', sync_interval: "{sync}"'  # 2m without quotes is two million
        lines.append(f"jetstream {{ {jetstream} }}")
    return "\n".join([*lines, more, ""])


def cluster_block(listen: str, others: Iterable[str], more: str = "") -> str:
    """`others` are the addresses at which servers are told of each other, its own may be one."""
    routes = ", ".join(f'"nats-route://{address}"' for address in others)
    return f'''cluster {{
  name: {CLUSTER}, listen: "{listen}", routes: [{routes}]
  pool_size: {POOL}
  {more}
}}'''
