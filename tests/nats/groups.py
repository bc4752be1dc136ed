"""The Raft groups of a cluster, as its servers tell of them: who leads, and who is with them.

A server that is cut off may take itself for the leader for a while, so it is the most that count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

Group = Mapping[str, Any]
"""As one of its servers sees it."""


class Asked(Protocol):
    def ask(self, path: str) -> Mapping[str, Any] | None: ...


def meta_group(server: Asked) -> Group:
    """Of all servers, whose leader decides on streams. Empty if the server does not answer."""
    group: Group = (server.ask("/jsz") or {}).get("meta_cluster") or {}
    return group


def group_of(server: Asked, stream: str) -> Group:
    """Of the servers that have a stream. Empty if this is none of them, or does not answer."""
    answer = server.ask("/jsz?accounts=true&streams=true") or {}
    for account in answer.get("account_details") or ():
        for found in account.get("stream_detail") or ():
            if found["name"] == stream:
                group: Group = found.get("cluster") or {}
                return group
    return {}


def replicas(group: Group) -> list[Mapping[str, Any]]:
    """The others of it. Only the leader knows how they are."""
    return list(group.get("replicas") or ())


def leader(groups: Iterable[Group], members: int | None = None) -> str | None:
    """Whom most of so many members take for it; of as many as they tell of."""
    told = [group for group in groups if group]
    members = members or max((1 + len(replicas(group)) for group in told), default=1)
    for name, count in Counter(group.get("leader") for group in told).items():
        if name and 2 * count > members:
            return str(name)
    return None


def is_current(group: Group, members: int | None = None) -> bool:
    """Whether all replicas of it, as its leader sees it, have what the leader has."""
    others = replicas(group)
    return (
        bool(group)
        and len(others) + 1 == (members or len(others) + 1)
        and all(map(_is_current, others))
    )


def _is_current(replica: Mapping[str, Any]) -> bool:
    return replica["current"] and not replica.get("offline") and not replica.get("lag")
