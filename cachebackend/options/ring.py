"""The settings of one cache alias."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cachebackend.codec import CODECS, COMPRESSORS, MAX_BYTES
from cachebackend.options.address_map import AddressMap, IsAddressMap, read_address_map
from cachebackend.options.cluster import WAIT_REPLICAS, ClusterAddress, cluster_faults, parse_location
from cachebackend.options.faults import Faults
from cachebackend.options.node_lists import NODE_LISTS, read_node_lists
from cachebackend.options.other_backends import other_backend_option
from cachebackend.options.rules import (
    Boolean,
    Choice,
    Integer,
    IsPassword,
    IsSecret,
    Number,
    Optional,
    Password,
    check_fields,
)
from cachebackend.options.url import NodeAddress, with_password
from cachebackend.policies import POLICIES

__all__ = ["RingOptions"]

_Block = TypeVar("_Block")
_SECONDS = Number(0, exclusive=True, unit=" seconds")
#: The allowed values of ``maxmemory-policy``. With ``volatile-*``, keys without a TTL are never evicted.
_EVICTIONS = ("allkeys-lfu", "allkeys-lru", "allkeys-random")
_BYTES = re.compile(r"(\d+)\s*(b|kb|mb|gb)?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}
#: Options that Django gives to every backend. They are ignored: a node evicts by its own settings.
_IGNORED = ("MAX_ENTRIES", "CULL_FREQUENCY")

#: The default of ``max_value_bytes``. A decoded value takes up to 75 times as much memory.
MAX_VALUE_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class NearOptions:
    """The options of ``OPTIONS["near"]``.

    Attributes:
        max_entries: The most copies in a process.
        max_age: The most seconds that a copy is used, even if its node sends no invalidation message.
        policy: Which copy is evicted to make room for another.
        max_bytes: The most bytes that the keys and records of all copies have together; None: no limit.
        max_record_bytes: Longer records are not copied; None: no limit.
    """

    max_entries: int = field(default=10_000, metadata={"rule": Integer(1, 100_000_000)})
    max_age: float = field(default=5.0, metadata={"rule": _SECONDS})
    policy: str = field(default="s3fifo", metadata={"rule": Choice(tuple(POLICIES))})
    max_bytes: int | None = field(default=None, metadata={"rule": Optional(Integer(1, 2**60))})
    max_record_bytes: int | None = field(default=None, metadata={"rule": Optional(Integer(1, 2**31))})


@dataclass(frozen=True, slots=True)
class EvictionOptions:
    """The options of ``OPTIONS["eviction"]``: how the nodes, which do the eviction, should be configured.

    Attributes:
        maxmemory: The ``maxmemory`` of each node in bytes, or as text such as ``"256mb"``; None: any.
        policy: The ``maxmemory-policy`` of each node; None: any.
    """

    maxmemory: int | None = field(default=None, metadata={"rule": Optional(Integer(1, 2**60))})
    policy: str | None = field(default=None, metadata={"rule": Optional(Choice(_EVICTIONS))})


@dataclass(frozen=True, slots=True)
class RingOptions:
    """The options of ``LOCATION`` and ``OPTIONS`` of a cache alias; times in seconds, sizes in bytes.

    Attributes:
        nodes: The nodes of the ring, in the order of ``LOCATION``; none if it is a cluster.
        cluster: The cluster, if ``LOCATION`` is the URL of one. Its slots decide which server has a key.
        joining_cluster: The cluster, if ``joining`` is the URL of one. No node is left in it then.
        leaving_cluster: The cluster, if ``leaving`` is the URL of one. No node is left in it then.
        connect_timeout: The most time that connecting to a node may take.
        socket_timeout: The most time that a reply of a node may take.
        on_node_failure: What a read does while a node is down. ``"miss"``: the node's keys miss;
            ``"raise"``: the read raises NodeUnavailableError.
        password: The password of every node whose URL has none, or a function without arguments that
            returns it. The function is called for each new connection, so that a password may change;
            it may also return a user and a password. None: only URLs have passwords.
        hash_seed: A secret text or number that decides, with the names of the nodes, which node owns a
            key. Someone who chooses keys and does not know it cannot choose keys of one node. All
            processes that use the nodes need the same secret: otherwise one deletes keys at other nodes
            than those where another stored them. Another secret moves nearly all keys, as another
            ``KEY_PREFIX`` does, so end all processes before you change it, and then run
            ``ring cleanup --yes``. None: the hash has no seed.
        replay_limit: The most missed deletes that are replayed to a returning node one by one. A
            node that missed more is cleared of this alias' keys.
        outbox_timeout: The most time that a call waits until the deletes which a node missed are in the
            outbox. Then they are in the memory of the process only, until the node returns.
        joining: The nodes of the new ring, as ``LOCATION`` will list them, or the URL of a cluster; deletes
            go to the new ring too.
        leaving: The nodes of the old ring, as ``LOCATION`` listed them, or the URL of a cluster; deletes go
            to the old ring first, and a miss reads from it.
        warm: Whether a miss reads from the old ring.
        gutter: Spare nodes that serve the keys of an ejected node.
        gutter_timeout: The most time that a gutter node stores a key.
        address_map: At which addresses this process reaches the servers of the cluster, if they are others
            than those which the cluster names: a dict from ``"host:port"`` to ``"host:port"``, or a
            function that gets a host and a port and returns both. None: at those which it names.
        wait_replicas: The number of replicas that must have a delete, or a quarantine, before it is
            confirmed; 0: the primary alone. A failover may lose a delete that no replica has. Plain
            nodes beside a cluster, or beside nodes behind Sentinel, wait for none: those of the other ring
            while a ring changes, and of a gutter.
        strict_on_failover: Whether strict models may use a cluster, or nodes behind Sentinel.
            ``"refuse"``: that is an error of the system check, because a failover may lose a
            quarantine; ``"accept"``: it is not.
        lease_timeout: The time that the holder of a lease has to fill.
        quarantine_timeout: The time for which a strict write prevents its keys from being filled. Its
            transaction must be shorter; on Postgres 17 and later the transaction's timeout is set.
        fill: How a lease is filled. ``"native"``: by ``SET … IFEQ``; ``"script"``: by a Lua script;
            ``"auto"``: native if the server has it.
        lease_on_get: Whether a ``get`` that misses takes the lease, and the ``set`` of the same key
            in the same request fills by it, until a write of the request is stored. Code that calls
            get, loads, and calls set is then safe from stale sets.
        stale_for: The time for which a loaded value may be served after its timeout, while one
            caller loads it again; 0: none. A call or a manager may set its own.
        jitter: The largest share, 0 to below 1, by which a loaded value's timeout is shortened at
            random, so that values which were filled together do not expire together.
        early_refresh_beta: How eagerly a value is loaded again before its timeout (XFetch). 1.0 is
            optimal for most sites; more is earlier; 0 turns it off.
        near: The near cache: copies, in the process, of values that were read. A dict of
            ``max_entries``, ``max_age``, ``policy``, ``max_bytes`` and ``max_record_bytes``, all
            optional; None: no near cache.
        eviction: How the nodes should evict: a dict of ``maxmemory`` and ``policy``. ``ring doctor``
            compares it with the nodes' configuration, ``ring configure`` applies it; None: the nodes
            keep the configuration that they have.
        codec: How values become bytes. ``"auto"`` writes MessagePack, or pickle where MessagePack
            cannot hold the value. ``"signed-pickle"`` does the same, and loads only pickles that are
            signed with ``SECRET_KEY`` or one of its fallbacks. ``"msgpack"`` and ``"json"`` never
            pickle, and refuse values that they cannot hold.
        compressor: What compresses long values.
        compress_over_bytes: Values whose bytes are more than this are compressed.
        max_value_bytes: The most bytes of a value, before it is compressed. A write of a longer value
            raises ValueTooLongError; a longer value that was loaded is returned and not stored; a record
            that would be decompressed to more is a miss.
    """

    nodes: tuple[NodeAddress, ...]
    connect_timeout: float = field(default=0.25, metadata={"rule": _SECONDS})
    socket_timeout: float = field(default=0.25, metadata={"rule": _SECONDS})
    on_node_failure: str = field(default="miss", metadata={"rule": Choice(("miss", "raise"))})
    password: Password | None = field(default=None, repr=False, metadata={"rule": Optional(IsPassword())})
    hash_seed: str | int | None = field(default=None, repr=False, metadata={"rule": Optional(IsSecret())})
    replay_limit: int = field(default=10_000, metadata={"rule": Integer(1, 10_000_000)})
    outbox_timeout: float = field(default=5.0, metadata={"rule": _SECONDS})
    joining: tuple[NodeAddress, ...] = ()
    leaving: tuple[NodeAddress, ...] = ()
    gutter: tuple[NodeAddress, ...] = ()
    gutter_timeout: float = field(default=10.0, metadata={"rule": _SECONDS})
    cluster: ClusterAddress | None = None
    joining_cluster: ClusterAddress | None = None
    leaving_cluster: ClusterAddress | None = None
    address_map: AddressMap | None = field(default=None, metadata={"rule": Optional(IsAddressMap())})
    wait_replicas: int = field(default=0, metadata={"rule": WAIT_REPLICAS})
    strict_on_failover: str = field(default="refuse", metadata={"rule": Choice(("refuse", "accept"))})
    warm: bool = field(default=True, metadata={"rule": Boolean()})
    lease_timeout: float = field(default=5.0, metadata={"rule": _SECONDS})
    quarantine_timeout: float = field(default=30.0, metadata={"rule": _SECONDS})
    fill: str = field(default="auto", metadata={"rule": Choice(("auto", "native", "script"))})
    lease_on_get: bool = field(default=False, metadata={"rule": Boolean()})
    stale_for: float = field(default=0.0, metadata={"rule": Number(0, unit=" seconds")})
    jitter: float = field(default=0.0, metadata={"rule": Number(0, below=1)})
    early_refresh_beta: float = field(default=1.0, metadata={"rule": Number(0)})
    near: NearOptions | None = None
    eviction: EvictionOptions | None = None
    codec: str = field(default="auto", metadata={"rule": Choice(tuple(CODECS))})
    compressor: str = field(default="none", metadata={"rule": Choice(("none", *COMPRESSORS))})
    compress_over_bytes: int = field(default=1024, metadata={"rule": Integer(0, 2**31)})
    max_value_bytes: int = field(default=MAX_VALUE_BYTES, metadata={"rule": Integer(1, MAX_BYTES)})

    @classmethod
    def read(cls, location: object, options: object, path: str) -> RingOptions:
        """Return the options of a settings block, validated as a whole.

        Args:
            location: A URL, several URLs in one string, or a list of URLs.
            options: The alias' ``OPTIONS``, names in lower case.
            path: The path of the block, such as ``CACHES['default']``.

        Raises:
            ConfigurationError: The block has faults; the error lists all of them.
        """
        faults = Faults(path)
        nodes, cluster = parse_location(location, faults.below("LOCATION"))
        if not nodes and cluster is None and not faults.messages:
            faults.add("LOCATION", "has no node; give at least one URL such as 'redis://host:6379/0?name=a'")
        ours: dict[str, Any] = {}
        if isinstance(options, Mapping):
            ours = {name: value for name, value in options.items() if name not in _IGNORED}
            near = _block(NearOptions, ours.pop("near", None), faults.below("OPTIONS").below("near"))
            eviction = _block(
                EvictionOptions,
                _in_bytes(ours.pop("eviction", None)),
                faults.below("OPTIONS").below("eviction"),
            )
            given = {name: ours.pop(name) for name in NODE_LISTS if name in ours}
            lists = read_node_lists(given, nodes, cluster, faults.below("OPTIONS"))
            all_nodes = [node for listed in (nodes, *lists.nodes.values()) for node in listed]
            cluster_faults(all_nodes, cluster or lists.cluster, ours | lists.nodes, faults.below("OPTIONS"))
            for name in list(ours):
                if text := other_backend_option(name):
                    faults.below("OPTIONS").add(name, text)
                    del ours[name]
            check_fields(cls, ours, faults.below("OPTIONS"), also_known=(*NODE_LISTS, "near", "eviction"))
            ours |= {**lists.nodes, "near": near, "eviction": eviction, "cluster": cluster}
            if lists.cluster is not None:
                ours["leaving_cluster" if lists.is_leaving else "joining_cluster"] = lists.cluster
        else:
            faults.add("OPTIONS", f"must be a dict, got a {type(options).__name__}")
        faults.raise_any()
        ours["address_map"] = read_address_map(ours.get("address_map"))
        return cls(nodes=nodes, **ours)

    @property
    def all_nodes(self) -> tuple[NodeAddress, ...]:
        """The nodes of the ring, then those of the other ring while the ring changes, then the gutter's.

        Each endpoint is there once. If a node of the other ring has the name of another server in this
        ring, "(joining)" or "(leaving)" is added to its name, so that errors name one node.
        """
        names, endpoints = {node.name for node in self.nodes}, {node.endpoint for node in self.nodes}
        other_ring = tuple(
            replace(node, name=f"{node.name} ({change})") if node.name in names else node
            for change, ring in (("joining", self.joining), ("leaving", self.leaving))
            for node in ring
            if node.endpoint not in endpoints
        )
        return with_password(self.nodes + other_ring + self.gutter, self.password)


def _block(kind: type[_Block], given: object, faults: Faults) -> _Block | None:
    """Return the options of a nested dict; None: there is none, or it has faults."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        faults.add(None, f"must be a dict or None, got a {type(given).__name__}")
        return None
    before = len(faults.messages)
    check_fields(kind, given, faults)  # type: ignore[arg-type]  # each is a dataclass
    return kind(**given) if len(faults.messages) == before else None


def _in_bytes(given: object) -> object:
    """Return the block of ``eviction`` with a ``maxmemory`` that is text such as "256mb" as a number."""
    if not isinstance(given, Mapping) or not isinstance(given.get("maxmemory"), str):
        return given
    match = _BYTES.fullmatch(given["maxmemory"].strip())
    if match is None:
        return given
    return {**given, "maxmemory": int(match[1]) * _UNITS[(match[2] or "").lower()]}
