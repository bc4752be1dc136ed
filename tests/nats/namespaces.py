"""A cluster whose servers are cut off from each other: each has a network of its own.

A server is in a network namespace with two links. One goes to the network that the tests are in,
for its clients; the other to a bridge, over which the servers reach each other. A link that is
taken down loses what is sent, and tells nobody: connections stay, as with a cable that is pulled.

Root may do so (strictly: who may make links in the network of the tests). Nothing of it has a name
in the system but the clients' links, and all of it goes with the processes that hold the
namespaces, which end with the tests.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.nats.monitoring import wait_for
from tests.nats.ports import ClaimedPort, claim_port
from tests.nats.servers import NatsCluster, NatsServer, Place

CLIENTS = IPv4Network("198.18.0.0/15")
"""For tests of networks (RFC 2544). It has as many pairs of addresses as there are ports: who has
claimed a port has its pair, on this machine."""

ROUTES = IPv4Network("10.0.0.0/24")
"""Each bridge stands alone, so all have the same."""

INDEX = 100

QUICK = "ping_interval: 1s, ping_max: 2"
"""So that servers give up a connection over a lost link in seconds, and make a new one."""


class NoNamespaces(Exception):
    """This environment lets nobody make them. The message says why."""


class Namespace:
    """A network of its own, for as long as it is held."""

    def __init__(self) -> None:
        # It is there for as long as somebody is in it: until we close the pipe, or end.
        try:
            self._holder = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo made && exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NoNamespaces(str(error)) from error
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "made\n":
            reason = self._holder.communicate()[1].strip()
            raise NoNamespaces(reason)

    @property
    def pid(self) -> int:
        """Of a process in it."""
        return self._holder.pid

    @property
    def within(self) -> tuple[str, ...]:
        """A command that becomes the one that follows it, in there."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def ip(self, *commands: str) -> str:
        """What these commands of ip(8) say."""
        return _ip(self.within, commands)

    def close(self) -> None:
        self._holder.communicate()


class Link:
    """A server's namespace, with what leads there."""

    def __init__(self, number: int, bridge: Namespace, stack: ExitStack) -> None:
        self._claim = _claimed(stack)
        self._bridge = bridge
        self._inside = _held(stack)
        self._at_bridge = f"server{number}"
        self._outside = f"nats{self._claim.number}"
        tests_end, server_end = _pair(self._claim.number)
        route = IPv4Address(int(ROUTES.network_address) + number)
        self.place = Place(str(server_end), str(route), self._inside.within)
        _ip(
            (),
            (
                f"link add {self._outside} type veth peer name clients netns {self._inside.pid}",
                f"address add {tests_end}/31 dev {self._outside}",
                f"link set {self._outside} up",
            ),
        )
        self._inside.ip(
            # With an index of another kind than its peer's: Linux looks up to a second later at
            # links whose two ends have the same.
            f"link add routes index {INDEX} type veth"
            f" peer name {self._at_bridge} index {INDEX + number} netns {bridge.pid}",
            f"address add {server_end}/31 dev clients",
            f"address add {route}/{ROUTES.prefixlen} dev routes",
            *(f"link set {name} up" for name in ("lo", "clients", "routes")),
        )
        bridge.ip(f"link set {self._at_bridge} master bridge")
        self.heal()

    def cut(self) -> None:
        self._bridge.ip(f"link set {self._at_bridge} down")

    def cut_clients(self) -> None:
        self._inside.ip("link set clients down")

    def heal(self) -> None:
        self._inside.ip("link set clients up")
        self._bridge.ip(f"link set {self._at_bridge} up")
        wait_for(self._is_up, f"the link {self._at_bridge} to be up")

    def _is_up(self) -> bool:
        return " state UP " in self._bridge.ip(f"link show dev {self._at_bridge}")


class DividedCluster(NatsCluster):
    """A cluster that can be divided. Raises `NoNamespaces`.

    Whoever is cut off from the others is no leader here, whatever it takes itself for.
    """

    def __init__(
        self,
        directory: Path,
        *,
        size: int = 3,
        sync: str | None = "2m",
        config: str = "",
        binary: Path | None = None,
    ) -> None:
        with ExitStack() as stack:
            bridge = _held(stack)
            bridge.ip("link add bridge type bridge", "link set bridge up")
            links = [Link(number, bridge, stack) for number in range(1, size + 1)]
            places = [link.place for link in links]
            super().__init__(
                directory, sync=sync, config=config, binary=binary, places=places, routing=QUICK
            )
            self._links = dict(zip(self.servers, links, strict=True))
            self._stack = stack.pop_all()
        self._cut: set[NatsServer] = set()

    def cut(self, server: NatsServer, *, clients: bool = False) -> None:
        """Cut a server off from the others; from its clients, and from the tests, too if asked."""
        self._links[server].cut()
        if clients:
            self._links[server].cut_clients()
        self._cut.add(server)

    def heal(self, server: NatsServer) -> None:
        """Undo `cut`. Nothing is waited for."""
        self._links[server].heal()
        self._cut.discard(server)

    def make_whole(self) -> None:
        for server in self.servers:
            self.heal(server)
        super().make_whole()

    def close(self) -> None:
        super().close()
        self._stack.close()

    def _is_reachable(self, server: NatsServer) -> bool:
        return server not in self._cut and super()._is_reachable(server)


def _held(stack: ExitStack) -> Namespace:
    namespace = Namespace()
    stack.callback(namespace.close)
    return namespace


def _claimed(stack: ExitStack) -> ClaimedPort:
    claim = claim_port()
    stack.callback(claim.release)
    return claim


def _pair(number: int) -> tuple[IPv4Address, IPv4Address]:
    """The addresses at the two ends of the link of whoever has claimed this port."""
    first = int(CLIENTS.network_address) + 2 * number
    return IPv4Address(first), IPv4Address(first + 1)


def _ip(within: tuple[str, ...], commands: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            [*within, "ip", "-batch", "-"],
            input="\n".join(commands),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise NoNamespaces(str(error)) from error
    if done.returncode:
        raise NoNamespaces(done.stderr.strip())
    return done.stdout
