"""The setting ``WRITE_BEHIND``, one for the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cachebackend.options.address_map import AddressMap, IsAddressMap, read_address_map
from cachebackend.options.cluster import WAIT_REPLICAS, ClusterAddress, cluster_faults, parse_location
from cachebackend.options.faults import Faults
from cachebackend.options.rules import (
    Choice,
    Integer,
    IsPassword,
    Number,
    Optional,
    Password,
    Word,
    check_fields,
)
from cachebackend.options.sentinel import SENTINEL_SCHEME
from cachebackend.options.url import NodeAddress, parse_nodes, with_password

__all__ = ["CLUSTER_PARTS", "MAX_PARTITIONS", "WriteBehindOptions"]

#: The largest number of partitions of a model's queue.
MAX_PARTITIONS = 1024
#: The parts of a queue on a cluster, which take the place of its nodes. The name of each is the hash tag of
#: all of its keys, so these are in one slot. The slots of the names are spread evenly, about 1,024 apart.
#: Keys are stored under these names, so none ever changes.
CLUSTER_PARTS = (
    *("q41", "q63", "q23", "q0", "q40", "q62", "q22", "q1"),
    *("q43", "q61", "q21", "q2", "q42", "q60", "q20", "q3"),
)
_SECONDS = Number(0, exclusive=True, unit=" seconds")
_BEHIND_SENTINEL = (
    "is behind Sentinel, which may promote a replica that lacks acknowledged writes; name the node itself, "
    "as redis://host:6379/0, and let it come back with its append-only file"
)
_POLICY = Choice(("raise", "write_through"))


@dataclass(frozen=True, slots=True)
class WriteBehindOptions:
    """The options of ``WRITE_BEHIND``; times in seconds.

    Attributes:
        nodes: The queue nodes, or the URL of a cluster. Without any, write-behind is off.
        cluster: Read from ``nodes``, if that is the URL of a cluster. No node is left in ``nodes`` then.
        partitions: The number of partitions of each model's queue. One worker at a time drains
            a partition. The queue nodes store it when the first write arrives, and then every process
            uses theirs; ``manage.py writebehind partitions`` changes it.
        prefix: The start of every key on the queue nodes. Two projects can share nodes if their prefixes
            differ. While tests run, the name of the test database is added.
        flush_interval: The time between two drains of a partition.
        batch_rows: The most rows that one statement of a drain handles. A batch is sealed when it
            holds this many rows, and twice as many for each batch that waits before it; a row counts
            once for each of its columns.
        high_water: The most rows that may be pending for each model, counted as for ``batch_rows``
            and divided evenly among its partitions.
        batch_bytes: The bytes of names and values at which a batch is sealed, as with ``batch_rows``.
        high_water_bytes: The most bytes of names and values that may be pending for each model, as with
            ``high_water``. The node needs about twice as much memory.
        durability: When a write is acknowledged. ``"memory"``: the queue node has it in memory;
            ``"everysec"``: it has it in memory, and on its disk within a second; ``"fsync"``: it has
            it on its disk.
        on_full: What happens to a write when its partition is full. ``"raise"``: it raises
            WriteBehindFullError. ``"write_through"``: it goes to the database at once, if it may
            overtake the pending writes; else it raises.
        on_unavailable: The same when the queue node does not answer; ``"write_through"`` is only for models
            whose manager has ``updates_only=True``. ``"drop"``: a change of ``counters``
            is lost, and counted and logged; every other write raises.
        address_map: At which addresses this process reaches the servers of the cluster, as for a cache alias.
        wait_replicas: The number of replicas that must have a write before it is acknowledged; 0: the primary
            alone. A failover may lose a write that no replica has. Beside a cluster, nodes in ``retiring``
            wait for none.
        retiring: The nodes that held the queues before ``nodes`` was changed, in whole or in part.
            Their batches are drained before those of ``nodes``.
        connect_timeout: The most time that connecting may take.
        socket_timeout: The most time that a reply of a queue node may take.
        password: The password of every queue node whose URL has none, or a function without arguments
            that returns it for each new connection. None: only URLs have passwords.
    """

    nodes: tuple[NodeAddress, ...] = ()
    partitions: int = field(default=8, metadata={"rule": Integer(1, MAX_PARTITIONS)})
    prefix: str = field(default="wb", metadata={"rule": Word(64)})
    flush_interval: float = field(default=1.0, metadata={"rule": _SECONDS})
    batch_rows: int = field(default=10_000, metadata={"rule": Integer(1, 1_000_000)})
    high_water: int = field(default=1_000_000, metadata={"rule": Integer(1, 2**31)})
    batch_bytes: int = field(default=2**24, metadata={"rule": Integer(1, 2**40)})
    high_water_bytes: int = field(default=2**28, metadata={"rule": Integer(1, 2**50)})
    durability: str = field(default="everysec", metadata={"rule": Choice(("memory", "everysec", "fsync"))})
    on_full: str = field(default="raise", metadata={"rule": _POLICY})
    on_unavailable: str = field(
        default="raise", metadata={"rule": Choice(("raise", "write_through", "drop"))}
    )
    cluster: ClusterAddress | None = None
    address_map: AddressMap | None = field(default=None, metadata={"rule": Optional(IsAddressMap())})
    wait_replicas: int = field(default=0, metadata={"rule": WAIT_REPLICAS})
    retiring: tuple[NodeAddress, ...] = ()
    connect_timeout: float = field(default=0.25, metadata={"rule": _SECONDS})
    socket_timeout: float = field(default=1.0, metadata={"rule": _SECONDS})
    password: Password | None = field(default=None, repr=False, metadata={"rule": Optional(IsPassword())})

    @classmethod
    def read(cls, given: object) -> WriteBehindOptions:
        """Return the options of the setting, validated as a whole.

        Raises:
            ConfigurationError: The setting has faults; the error lists all of them.
        """
        faults = Faults("WRITE_BEHIND")
        if not isinstance(given, Mapping):
            faults.add(None, f"must be a dict, got a {type(given).__name__}")
            faults.raise_any()
            return cls()
        rest: dict[str, Any] = {k: v for k, v in given.items() if k not in {"nodes", "retiring"}}
        nodes, cluster = parse_location(given.get("nodes", ()), faults.below("nodes"))
        cluster_faults(nodes, cluster, given, faults)
        retiring = parse_nodes(given.get("retiring", ()), faults.below("retiring"))
        if retiring and not nodes and cluster is None:
            faults.add(
                "retiring", "has nodes, but 'nodes' has none; list the nodes that replace them in 'nodes'"
            )
        for key, addresses in (("nodes", nodes), ("retiring", retiring)):
            for index, node in enumerate(addresses):
                if node.url.startswith(f"{SENTINEL_SCHEME}:"):
                    faults.below(key).add(index, _BEHIND_SENTINEL)
        check_fields(cls, rest, faults, also_known=("nodes", "retiring"))
        faults.raise_any()
        rest["address_map"] = read_address_map(rest.get("address_map"))
        return cls(nodes=nodes, cluster=cluster, retiring=retiring, **rest)

    @property
    def has_safe_seals(self) -> bool:
        """Whether a batch is drained only when its seal is on a disk or on replicas; else it is in memory."""
        return self.durability != "memory" or self.wait_replicas > 0

    @property
    def is_on(self) -> bool:
        """Whether write-behind has nodes or a cluster."""
        return bool(self.nodes) or self.cluster is not None

    @property
    def active_nodes(self) -> tuple[NodeAddress, ...]:
        """The nodes that take writes; for a cluster its parts, which all have the URL of one server."""
        if self.cluster is None:
            return self.nodes
        url = self.cluster.node_url(*self.cluster.hosts[0])
        return tuple(NodeAddress(name, 1.0, url) for name in CLUSTER_PARTS)

    @property
    def all_nodes(self) -> tuple[NodeAddress, ...]:
        """The nodes that take writes, then the retiring nodes that are not among them."""
        active = self.active_nodes
        names = {node.name for node in active}
        retiring = tuple(node for node in self.retiring if node.name not in names)
        return with_password(active + retiring, self.password)
