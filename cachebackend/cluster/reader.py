"""Asks the servers of a cluster for its topology, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from cachebackend.cluster.topology import QUESTIONS, Server, Topology, read_topology
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.blocking import Connection
from cachebackend.node.handshake import Handshake
from cachebackend.node.translate import CONNECTION_ERRORS
from cachebackend.options import AddressMap, ClusterAddress, Password, host_text

__all__ = ["TopologyReader"]


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

    def read(self, servers: Iterable[Server], failed: Iterable[Server], epoch: int) -> Topology:
        """Return the first topology that is not older than the last one, or the best that any server has.

        Args:
            servers: The servers that are asked first.
            failed: Those that are asked last. The servers in the URL come before them.
            epoch: The epoch of the last topology.

        Raises:
            ConnectionError: No server answers, or the cluster has no slots.
        """
        found: list[Topology] = []
        failure = ""
        first, last = ([(server.host, server.port) for server in each] for each in (servers, failed))
        for host, port in dict.fromkeys((*first, *self._address.hosts, *last)):
            try:
                topology = self._ask(host, port)
            except (*CONNECTION_ERRORS, RingCacheError) as error:
                raise_interrupt(error)
                failure = failure or f": {host_text(host, port)} {error}"
                continue
            if topology.is_ok and topology.epoch >= epoch and topology.shards:
                return topology
            found.append(topology)
        best = max(found, key=lambda each: (bool(each.shards), each.is_ok, each.epoch), default=None)
        if best is None or not best.shards:
            message = "no server of the cluster answers" if best is None else "the cluster has no slots yet"
            raise ConnectionError(message + failure)
        return best

    def _ask(self, host: str, port: int) -> Topology:
        handshake = Handshake(self._address.node_url(host, port), *self._timeouts, self._password)
        with closing(Connection(handshake, self._timeouts[1])) as connection:
            connection.send(QUESTIONS)
            return read_topology(list(connection.replies(QUESTIONS)), host, self._address_map)
