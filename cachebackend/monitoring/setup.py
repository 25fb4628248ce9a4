"""Whether the ring's nodes are set up as a cache's should be, and as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.errors import RingCacheError

__all__ = ["Difference", "configure", "differences", "ring_faults"]

#: Nodes must agree on the time to so many seconds for what they say of ages to mean anything.
CLOCK_SECONDS = 5.0


class Difference(NamedTuple):
    """A setting of a node that is not what ``OPTIONS["eviction"]`` says.

    Attributes:
        node: The node's name.
        setting: As the node calls it.
        now: What it is.
        wanted: What it should be.
    """

    node: str
    setting: str
    now: str
    wanted: str


def differences(client: RingClient, infos: Sequence[dict[str, str] | RingCacheError]) -> list[Difference]:
    """Return what of the nodes that answer differs from the settings; nothing if those say nothing.

    Args:
        client: The alias'.
        infos: What each of its nodes says of itself, or why it does not.
    """
    eviction = client.context.options.eviction
    if eviction is None:
        return []
    wanted = {"maxmemory": eviction.maxmemory, "maxmemory-policy": eviction.policy}
    return [
        Difference(name, setting, now, str(value))
        for name, info in zip(client.ring.names, infos, strict=True)
        if not isinstance(info, RingCacheError)
        for setting, value in wanted.items()
        if value is not None and (now := info.get(setting.replace("-", "_"), "")) != str(value)
    ]


def configure(client: RingClient, found: Sequence[Difference]) -> None:
    """Set what differs, until the nodes are restarted.

    Raises:
        RingCacheError: A node did not answer, or refused; those before it are set.
    """
    for each in found:
        node = client.nodes[client.ring.names.index(each.node)]
        reply = node.call((b"CONFIG", b"SET", each.setting, each.wanted))
        if isinstance(reply, RingCacheError):
            raise reply


def ring_faults(alias: str, client: RingClient) -> list[str]:
    """Return what is wrong with the nodes of an alias, a sentence each with what to set."""
    infos = client.run(protocol.node_infos(client.context, range(len(client.nodes))))
    faults = []
    for name, info in zip([node.name for node in client.nodes], infos, strict=True):
        if isinstance(info, RingCacheError):
            faults.append(f"{alias}: {info}")
            continue
        policy = info.get("maxmemory_policy", "")
        if info.get("maxmemory") == "0":
            faults.append(f"{alias}: node {name!r} has no bound to its memory; set maxmemory")
        elif policy == "noeviction":
            faults.append(
                f"{alias}: node {name!r} refuses writes when it is full (maxmemory-policy noeviction); "
                "set allkeys-lfu"
            )
        elif policy.startswith("volatile-"):
            faults.append(
                f"{alias}: node {name!r} never evicts keys without a timeout (maxmemory-policy {policy}); "
                "set allkeys-lfu"
            )
        skew = abs(int(info.get("server_time_usec", 0)) / 1e6 - client.context.clock.now())
        if "server_time_usec" in info and skew > CLOCK_SECONDS:
            faults.append(f"{alias}: the clock of node {name!r} is {skew:.0f} s off; set its time")
    faults += [
        f"{alias}: node {each.node!r} has {each.setting} {each.now}, not {each.wanted}; "
        "`ring configure --yes` sets it"
        for each in differences(client, infos)
    ]
    return faults
