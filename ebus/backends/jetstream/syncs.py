"""How the servers sync what they store, which they tell only to the system account."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import msgspec
from msgspec.structs import replace

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.client import Answer
from ebus.backends.jetstream.link import Link
from ebus.core.errors import StoreUnavailable

SUBJECT = "$SYS.REQ.SERVER.PING.JSZ"
"""Every server answers to it."""

WITHIN_S = 1.0
"""How long to wait for the last of them; without one that is down it takes some ms."""


class Syncs(msgspec.Struct, frozen=True):
    """What the servers of a cluster have said."""

    servers: int
    """All that the cluster has."""

    told: int
    """Those that have said how they sync."""

    lazy: int
    """Those of them that answer before they sync."""

    interval_s: float
    """How long those let pass between two syncs, at most."""

    @property
    def is_known(self) -> bool:
        """Whether most have told: then every append that is answered is with one of them."""
        return 2 * self.told > self.servers


class _Config(msgspec.Struct, frozen=True):
    sync_interval: int = 0
    sync_always: bool = False


class _Meta(msgspec.Struct, frozen=True):
    cluster_size: int = 1


class _JetStream(msgspec.Struct, frozen=True):
    disabled: bool = False
    config: _Config = _Config()
    meta_cluster: _Meta = _Meta()


class _Server(msgspec.Struct, frozen=True):
    name: str = ""
    cluster: str | None = None


class _Told(msgspec.Struct, frozen=True):
    server: _Server = _Server()
    data: _JetStream = _JetStream(disabled=True)


_decode = msgspec.json.Decoder(_Told).decode


def ask_syncs(options: Options, cluster: str | None) -> Syncs:
    """Ask all servers of a cluster, or the one that is none. Over a connection of its own.

    Raises `StoreUnavailable`, and `StoreRefused` for a file of the options that is none.
    """
    with closing(Link(_as_system(options))) as link:
        answers = link.gather(SUBJECT, lambda got: _are_all(got, cluster), within_s=WITHIN_S)
        if answers and answers[0].has_no_responders:
            named = options.named()
            raise StoreUnavailable(f"{named}: system.user is not of the system account")
    return syncs_in(answers, cluster)


def syncs_in(answers: Sequence[Answer], cluster: str | None) -> Syncs:
    told = _of_cluster(answers, cluster)
    configs = [it.config for it in told.values()]
    lazy = [it for it in configs if not it.sync_always]
    return Syncs(
        servers=max((it.meta_cluster.cluster_size for it in told.values()), default=1),
        told=len(told),
        lazy=len(lazy),
        interval_s=max((it.sync_interval for it in lazy), default=0) / 1e9,
    )


def _are_all(answers: Sequence[Answer], cluster: str | None) -> bool:
    syncs = syncs_in(answers, cluster)
    return syncs.told >= syncs.servers


def _of_cluster(answers: Sequence[Answer], cluster: str | None) -> dict[str, _JetStream]:
    """What those have said that store something, by their names."""
    told = [_decode(it.data) for it in answers if it.data]
    return {
        it.server.name: it.data
        for it in told
        if it.server.cluster == cluster and not it.data.disabled
    }


def _as_system(options: Options) -> Options:
    return replace(
        options,
        user=options.system_user,
        password=options.system_password,
        password_file=options.system_password_file,
        credentials=options.system_credentials,
        token=None,
        token_file=None,
    )
