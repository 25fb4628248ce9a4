"""What is wrong with the queue nodes: their settings, and whether they can take writes now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.conf import write_behind_options
from cachebackend.drivers import drive
from cachebackend.errors import RingCacheError
from cachebackend.protocol.queue.partition import checked
from cachebackend.writebehind.node_health import NodeHealth
from cachebackend.writebehind.queue import project_queue

__all__ = ["faults_of_node", "named_error", "node_faults", "settings_faults"]

#: The server settings that write-behind depends on.
_SETTINGS = (b"maxmemory-policy", b"appendonly", b"appendfsync")


def node_faults() -> list[str]:
    """Return what is wrong with the queue nodes: one sentence for each fault, with what to do about it."""
    client = project_queue()
    faults = [fault for index, *_ in client.servers().values() for fault in faults_of_node(client, index)]
    return [*faults, *_replica_faults(client), *_count_faults(client)]


def settings_faults(client: QueueClient, nodes: Iterable[int]) -> list[str]:
    """Return what is set up wrong on queue nodes, a sentence for each; a node that fails is left out."""
    faults = []
    for index in nodes:
        try:
            found = list(_settings_faults(client, index))
        except RingCacheError:
            continue
        faults += [f"queue node {client.server_name(index)!r} {fault}" for fault in found]
    return [*faults, *_replica_faults(client), *_count_faults(client)]


def _replica_faults(client: QueueClient) -> Iterator[str]:
    """Yield what is set up wrong on the replicas of a cluster, each of which may be promoted at any time."""
    durability = write_behind_options().durability
    for node in [] if client.cluster is None else client.cluster.replica_nodes():
        try:
            settings = drive(protocol.queue.node_settings(client.context, 0, _SETTINGS), [node])
        except RingCacheError:
            continue  # the faults of its primary say that it is not connected
        finally:
            node.close()
        yield from (
            f"queue node {node.name!r}, a replica, {fault}" for fault in _faults(settings, durability)
        )


def _count_faults(client: QueueClient) -> Iterator[str]:
    """Yield that the nodes have different numbers of partitions: one of them was emptied, or is new."""
    try:
        counts = client.run(protocol.queue.partition_counts(client.context, client.context.nodes))
    except RingCacheError as error:
        yield str(error)
        return
    if len(set(map(abs, counts.values()))) > 1:
        names = {node: client.nodes[node].name for node in counts}
        each = ", ".join(f"{names[node]!r} has {abs(count)}" for node, count in counts.items())
        yield (
            f"the queue nodes have different numbers of partitions ({each}), so the writes of a row can lose "
            "their order, and reads fail; run `manage.py writebehind partitions N` with the right one"
        )


def named_error(name: str, error: RingCacheError) -> str:
    """Return the error of a queue node as text, with the node's name."""
    text = str(error)
    return text if repr(name) in text else f"queue node {name!r}: {text}"


def faults_of_node(client: QueueClient, index: int) -> Iterator[str]:
    """Yield what is wrong with one queue node, as ``node_faults``."""
    name = client.server_name(index)
    try:
        [info] = client.run(protocol.telemetry.node_infos(client.context, [index]))
        health = NodeHealth.of(checked(info))
        faults = [health.memory_fault, *health.disk_faults, *_settings_faults(client, index)]
    except RingCacheError as error:
        yield named_error(name, error)
        return
    yield from (f"queue node {name!r} {fault}" for fault in faults if fault)


def _settings_faults(client: QueueClient, index: int) -> Iterator[str]:
    """Yield how a node differs from what the project's settings demand, without its name.

    Raises:
        RingCacheError: The node does not answer.
    """
    demanded = write_behind_options()  # the options of a client that only reads may be weaker
    settings = client.run(protocol.queue.node_settings(client.context, index, _SETTINGS))
    yield from _faults(settings, demanded.durability)
    if demanded.durability != "memory" and (
        fault := client.run(protocol.queue.sync_fault(client.context, index))
    ):
        yield fault
    if wanted := client.replicas_of(index):
        [info] = client.run(protocol.telemetry.node_infos(client.context, [index]))
        connected = protocol.telemetry.number_of(checked(info), "connected_slaves")
        if connected is not None and connected < wanted:
            yield (
                f"has {connected} replicas that are connected, and each write waits for {wanted} of them "
                "(wait_replicas); start the replicas, or set a lower number"
            )


def _faults(settings: Mapping[bytes, str], durability: str) -> Iterator[str]:
    policy = settings.get(b"maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield f"may evict queued writes (maxmemory-policy {policy}); set maxmemory-policy noeviction"
    if durability == "memory":
        return
    appendfsync = settings.get(b"appendfsync", "everysec")
    if settings.get(b"appendonly", "yes") == "no":
        yield "has no append-only file; set appendonly yes, or WRITE_BEHIND['durability'] to 'memory'"
    elif appendfsync == "no":
        yield "lets its operating system decide when its file is on disk; set appendfsync everysec"
    elif durability == "fsync" and appendfsync != "always":
        yield (
            "syncs its file once a second: Redis lets each write wait for that, and Valkey confirms it "
            "early; set appendfsync always"
        )
