"""Whether the nodes of a ring are set up as a cache needs it, and as the settings demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median_low
from typing import NamedTuple

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.cluster import ShardNode
from cachebackend.drivers import drive
from cachebackend.effects import Command
from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.monitoring.faults import MAX_CLOCK_SKEW_SECONDS
from cachebackend.node import Node

__all__ = ["Difference", "configure", "differences", "ring_faults"]

_READS_WHEN_DOWN = b"cluster-allow-reads-when-down"
#: Commands that the user of a cluster must be allowed to run, by their rights. ASKING is for PING alone.
_OF_CLUSTERS: dict[str, Command] = {
    "cluster|info": (b"CLUSTER", b"INFO"),
    "cluster|slots": (b"CLUSTER", b"SLOTS"),
    "cluster|shards": (b"CLUSTER", b"SHARDS"),
    "asking": (b"ASKING",),
    "ping": (b"PING",),
}
_WAIT: dict[str, Command] = {"wait": (b"WAIT", b"0", b"1")}


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

    The replicas of a cluster must have the same settings, because each may be promoted at any time.

    Args:
        client: The alias' client.
        infos: For each of the client's ``indexes`` the node's ``INFO``, or the error in its place.
    """
    eviction = client.context.options.eviction
    if eviction is None:
        return []
    wanted = {"maxmemory": eviction.maxmemory, "maxmemory-policy": eviction.policy}
    named = [
        (client.ring.names[index], info)
        for index, info in zip(client.indexes, infos, strict=True)
        if index < len(client.ring)
    ]
    return [
        Difference(name, setting, now, str(value))
        for name, info in [*named, *_replica_infos(client)]
        if not isinstance(info, RingCacheError)
        for setting, value in wanted.items()
        if value is not None and (now := info.get(setting.replace("-", "_"), "")) != str(value)
    ]


def _replica_infos(client: RingClient) -> Iterator[tuple[str, dict[str, str] | RingCacheError]]:
    """Yield the name and the ``INFO`` of each replica of the cluster, if the ring is one."""
    for node in _replica_nodes(client):
        [info] = drive(protocol.telemetry.node_infos(client.context, [0]), [node])
        node.close()
        yield node.name, info


def _replica_nodes(client: RingClient) -> list[Node]:
    return [node for cluster in client.clusters for node in cluster.replica_nodes()]


def _shards(client: RingClient) -> list[ShardNode]:
    """Return the shards with slots of the cluster, and of the other one while a ring changes."""
    return [cluster.shards[index] for cluster in client.clusters for index in cluster.ring.nodes]


def configure(client: RingClient, differing: Sequence[Difference]) -> None:
    """Set the settings that differ, until the nodes are restarted.

    Args:
        client: The alias' client.
        differing: What ``differences`` returned.

    Raises:
        RingCacheError: A node did not answer, or refused; the nodes before it are set.
    """
    replicas = {node.name: node for node in _replica_nodes(client)}
    try:
        for each in differing:
            node = replicas.get(each.node) or client.nodes[client.ring.names.index(each.node)]
            reply = node.call((b"CONFIG", b"SET", each.setting, each.wanted))
            if isinstance(reply, RingCacheError):
                raise reply
    finally:
        for replica in replicas.values():
            replica.close()


def ring_faults(alias: str, client: RingClient, *, with_errors: bool = True) -> list[str]:
    """Return what is wrong with the setup of an alias' nodes: a sentence each, with what to set.

    Args:
        alias: The alias.
        client: Its client.
        with_errors: Whether a node that does not answer has a sentence too.
    """
    infos = client.run(protocol.telemetry.node_infos(client.context, client.indexes))
    named = [(client.nodes[index].name, info) for index, info in zip(client.indexes, infos, strict=True)]
    answers = {name: info for name, info in named if not isinstance(info, RingCacheError)}
    faults = [f"{alias}: {error}" for _, error in named if with_errors and isinstance(error, RingCacheError)]
    faults += [f"{alias}: {fault}" for name, info in answers.items() for fault in _faults(name, info)]
    faults += [f"{alias}: {fault}" for fault in _clock_faults(answers, client.context.clock.now())]
    in_ring = {name: info for name, info in answers.items() if name in client.ring.names}
    faults += [f"{alias}: {fault}" for fault in _policy_faults(in_ring)]
    faults += [f"{alias}: {fault}" for fault in (*_replica_faults(client), *_server_faults(client))]
    faults += [
        f"{alias}: node {each.node!r} has {each.setting} {each.now}, not {each.wanted}; "
        "`ring configure --yes` sets it"
        for each in differences(client, infos)
    ]
    return faults


def _replica_faults(client: RingClient) -> Iterator[str]:
    """Yield a fault for each shard without a replica, if other shards have some, or deletes wait for them."""
    shards = _shards(client)
    if client.context.options.wait_replicas or any(shard.replicas for shard in shards):
        for shard in shards:
            if shard.server is not None and not shard.replicas:
                yield f"shard {shard.name!r} has no replica that could be promoted if it fails; add one"


def _server_faults(client: RingClient) -> Iterator[str]:
    """Yield the faults of the servers of a cluster. Each replica may be promoted at any time."""
    replicas = _replica_nodes(client)
    for node in (*_shards(client), *replicas):
        yield from _reads_when_down(node)
        yield from _refused(node, with_wait=client.context.options.wait_replicas > 0)
    for node in replicas:
        node.close()


def _reads_when_down(node: Node) -> Iterator[str]:
    """Yield a fault if a server of a cluster serves reads although the cluster is down for it."""
    if node.call((b"CONFIG", b"GET", _READS_WHEN_DOWN)) == [_READS_WHEN_DOWN, b"yes"]:
        yield (
            f"server {node.name!r} serves old values while it is cut off from the others; "
            f"set {_READS_WHEN_DOWN.decode()} no"
        )


def _refused(node: Node, *, with_wait: bool) -> Iterator[str]:
    """Yield a fault for each command that a cluster needs, and that a server does not let its user run.

    Nothing else says so: without WAIT each delete stays pending, without ASKING keys of slots that move miss.
    """
    commands = _OF_CLUSTERS | _WAIT if with_wait else _OF_CLUSTERS
    for right, reply in zip(commands, node.send(list(commands.values())).receive(), strict=True):
        if isinstance(reply, NodeReplyError) and reply.code == "NOPERM":
            yield f"server {node.name!r} does not let its user run what a cluster needs; grant it +{right}"


def _faults(name: str, info: Mapping[str, str]) -> Iterator[str]:
    policy = info.get("maxmemory_policy", "")
    if info.get("maxmemory") == "0":
        yield f"node {name!r} has no limit to its memory; set maxmemory"
    elif policy == "noeviction":
        yield (f"node {name!r} refuses writes when it is full (maxmemory-policy noeviction); set allkeys-lfu")
    elif policy.startswith("volatile-"):
        yield (
            f"node {name!r} never evicts keys without a timeout (maxmemory-policy {policy}); set allkeys-lfu"
        )
    yield from _file_faults(name, info)


def _file_faults(name: str, info: Mapping[str, str]) -> Iterator[str]:
    """Yield that a node has started with the keys of a file, or will: deletes since then are undone.

    A server that replicates, or was promoted, saves and loads files for that, which is right.
    """
    replicates = info.get("connected_slaves", "0") != "0" or info.get("second_repl_offset", "-1") != "-1"
    if replicates or info.get("role") != "master":
        return
    if protocol.telemetry.number_of(info, "rdb_last_load_keys_loaded"):
        yield (
            f"node {name!r} has started with the keys of a file, and may serve what was deleted since: clear "
            'it; set save to "" and appendonly to no, and remove the file'
        )
    elif protocol.telemetry.number_of(info, "rdb_saves"):
        yield (
            f"node {name!r} saves its keys to a file: after a restart it would serve what was deleted since; "
            'set save to ""'
        )


def _clock_faults(infos: Mapping[str, Mapping[str, str]], now: float) -> Iterator[str]:
    """Yield the nodes whose clock differs from that of the others.

    If no node agrees with this process, it is the clock of the process that is wrong, which is another fault.
    """
    times = {name: protocol.telemetry.number_of(info, "server_time_usec") for name, info in infos.items()}
    ahead = {name: time / 1e6 - now for name, time in times.items() if time is not None}
    is_right = any(abs(seconds) <= MAX_CLOCK_SKEW_SECONDS for seconds in ahead.values())
    usual = 0.0 if is_right or not ahead else median_low(ahead.values())
    for name, seconds in ahead.items():
        if (skew := abs(seconds - usual)) > MAX_CLOCK_SKEW_SECONDS:
            yield f"the clock of node {name!r} is {skew:.0f} s off; set its time"


def _policy_faults(infos: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield that nodes evict by different policies, so that some keep other values than the rest."""
    policies = {name: info.get("maxmemory_policy", "") for name, info in infos.items()}
    if len(set(policies.values())) > 1 and all(map(_evicts_all, policies.values())):
        each = ", ".join(f"{name!r} {policy}" for name, policy in policies.items())
        yield f"the nodes evict by different policies ({each}); set one maxmemory-policy"


def _evicts_all(policy: str) -> bool:
    return policy.startswith("allkeys-")
