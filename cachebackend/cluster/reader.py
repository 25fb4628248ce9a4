"""Asks the servers of a cluster for its topology, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing

from cachebackend.cluster.topology import QUESTIONS, Server, Topology, read_topology
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.blocking import Connection
from cachebackend.node.endpoint import Address
from cachebackend.node.handshake import Handshake
from cachebackend.node.translate import CONNECTION_ERRORS
from cachebackend.options import AddressMap, ClusterAddress, Password, host_text

__all__ = ["NoSlotsError", "TopologyReader"]


class NoSlotsError(ConnectionError):
    """Servers of the cluster answer, and each of them knows of no slot that a server has."""


class TopologyReader:
    """Reads the topology of one cluster.

    Args:
        address: The settings' URL.
        timeouts: The most seconds that connecting to a server may take, and those for a reply.
        password: The password, or a function that returns it, if the URL has none.
        address_map: Translates the addresses that the cluster reports to those that this process uses.
    """

    def __init__(
        self,
        address: ClusterAddress,
        timeouts: tuple[float, float],
        password: Password | None,
        address_map: AddressMap,
    ) -> None:
        self._address, self._timeouts = address, timeouts
        self._password, self._address_map = password, address_map

    def read(
        self, servers: Iterable[Server], failed: Iterable[Server], epoch: int, known: Collection[str] = ()
    ) -> Topology:
        """Return the first topology that is not older than the last one, or the best that any server has.

        A server may belong to another cluster now, or another one may have its address.

        Args:
            servers: The servers that are asked first.
            failed: Those that are asked last. The servers in the URL come before them.
            epoch: The epoch of the last topology.
            known: The IDs of the servers of the last topology. A topology that has none of them, beside the
                server that was asked, is of another cluster: it is used if no server has a better one. Empty:
                nothing is known yet.

        Raises:
            NoSlotsError: The cluster has no slots, as far as its servers answer.
            ConnectionError: No server answers.
        """
        found: list[tuple[bool, Topology]] = []
        failure = ""
        first, last = ([(server.host, server.port) for server in each] for each in (servers, failed))
        for host, port in dict.fromkeys((*first, *self._address.hosts, *last)):
            try:
                topology = self._ask(host, port)
            except (*CONNECTION_ERRORS, RingCacheError) as error:
                raise_interrupt(error)
                failure = failure or f": {host_text(host, port)} {error}"
                continue
            is_same = not known or _has_others(topology, (host, port), known)
            if is_same and topology.is_ok and topology.epoch >= epoch and topology.shards:
                return topology
            found.append((is_same, topology))
        _, best = max(found, key=_rank, default=(False, None))
        if best is None:
            message = "no server of the cluster answers"
            raise ConnectionError(message + failure)
        if not best.shards:
            message = "the cluster has no slots yet"
            raise NoSlotsError(message + failure)
        return best

    def _ask(self, host: str, port: int) -> Topology:
        address = Address(host, port)
        handshake = Handshake(self._address.login_url, *self._timeouts, self._password, address)
        with closing(Connection(handshake, self._timeouts[1])) as connection:
            connection.send(QUESTIONS)
            return read_topology(list(connection.replies(QUESTIONS)), host, self._address_map)


def _rank(found: tuple[bool, Topology]) -> tuple[bool, bool, bool, int]:
    is_same, topology = found
    return bool(topology.shards), is_same, topology.is_ok, topology.epoch


def _has_others(topology: Topology, asked: tuple[str, int], known: Collection[str]) -> bool:
    """Return whether a topology has one of the known servers beside the one that was asked for it."""
    servers = (server for shard in topology.shards for server in (shard.primary, *shard.replicas))
    return any(server.id in known and (server.host, server.port) != asked for server in servers)
