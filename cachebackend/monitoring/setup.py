"""Whether the nodes of a ring are set up as a cache needs it, and as the settings demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.errors import RingCacheError
from cachebackend.monitoring.faults import MAX_CLOCK_SKEW_SECONDS

__all__ = ["Difference", "configure", "differences", "ring_faults"]


class Difference(NamedTuple):
    """A setting of a node that differs from ``OPTIONS["eviction"]``.

    Attributes:
        node: The node's name.
        setting: The name of the node's setting.
        now: Its value on the node.
        wanted: Its value in ``OPTIONS["eviction"]``.
    """

    node: str
    setting: str
    now: str
    wanted: str


def differences(client: RingClient, infos: Sequence[dict[str, str] | RingCacheError]) -> list[Difference]:
    """Return the settings that differ, of the nodes that answered; nothing without ``OPTIONS["eviction"]``.

    Args:
        client: The alias' client.
        infos: For each of the client's ``indexes`` the node's ``INFO``, or the error in its place.
    """
    eviction = client.context.options.eviction
    if eviction is None:
        return []
    wanted = {"maxmemory": eviction.maxmemory, "maxmemory-policy": eviction.policy}
    return [
        Difference(client.ring.names[index], setting, now, str(value))
        for index, info in zip(client.indexes, infos, strict=True)
        if index < len(client.ring) and not isinstance(info, RingCacheError)
        for setting, value in wanted.items()
        if value is not None and (now := info.get(setting.replace("-", "_"), "")) != str(value)
    ]


def configure(client: RingClient, differing: Sequence[Difference]) -> None:
    """Set the settings that differ, until the nodes are restarted.

    Args:
        client: The alias' client.
        differing: What ``differences`` returned.

    Raises:
        RingCacheError: A node did not answer, or refused; the nodes before it are set.
    """
    for each in differing:
        node = client.nodes[client.ring.names.index(each.node)]
        reply = node.call((b"CONFIG", b"SET", each.setting, each.wanted))
        if isinstance(reply, RingCacheError):
            raise reply


def ring_faults(alias: str, client: RingClient) -> list[str]:
    """Return what is wrong with the nodes of an alias: a sentence each, with what to set."""
    indexes = client.indexes
    infos = client.run(protocol.node_infos(client.context, indexes))
    faults: list[str] = []
    for index, info in zip(indexes, infos, strict=True):
        if isinstance(info, RingCacheError):
            faults.append(f"{alias}: {info}")
            continue
        name = client.nodes[index].name
        faults += [f"{alias}: {fault}" for fault in _faults(name, info, client.context.clock.now())]
    faults += [
        f"{alias}: node {each.node!r} has {each.setting} {each.now}, not {each.wanted}; "
        "`ring configure --yes` sets it"
        for each in differences(client, infos)
    ]
    return faults


def _faults(name: str, info: dict[str, str], now: float) -> Iterator[str]:
    policy = info.get("maxmemory_policy", "")
    if info.get("maxmemory") == "0":
        yield f"node {name!r} has no limit to its memory; set maxmemory"
    elif policy == "noeviction":
        yield (f"node {name!r} refuses writes when it is full (maxmemory-policy noeviction); set allkeys-lfu")
    elif policy.startswith("volatile-"):
        yield (
            f"node {name!r} never evicts keys without a timeout (maxmemory-policy {policy}); set allkeys-lfu"
        )
    time = protocol.number_of(info, "server_time_usec")
    if time is not None and (skew := abs(time / 1e6 - now)) > MAX_CLOCK_SKEW_SECONDS:
        yield f"the clock of node {name!r} is {skew:.0f} s off; set its time"
