"""The options of one cache alias."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cachebackend.codec import CODECS, COMPRESSORS
from cachebackend.options.faults import Choice, Faults, Flag, Number, Optional, Whole, check_fields
from cachebackend.options.peers import peer_option
from cachebackend.options.url import NodeAddress, parse_nodes
from cachebackend.policies import POLICIES

__all__ = ["RingOptions", "change_faults"]

_Block = TypeVar("_Block")
_SECONDS = Number(0, above=True, unit=" seconds")
#: What a cache's nodes may do when they are full; the volatile ones never evict what has no timeout.
_EVICTIONS = ("allkeys-lfu", "allkeys-lru", "allkeys-random")
_BYTES = re.compile(r"(\d+)\s*(b|kb|mb|gb)?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}
#: The options that name the ring that is entered, or left.
_CHANGES = ("joining", "leaving")
_OTHER_RINGS = (*_CHANGES, "gutter")
#: Django gives every backend these two; how much a node keeps is the node's own affair.
_DJANGOS_OWN = ("MAX_ENTRIES", "CULL_FREQUENCY")


@dataclass(frozen=True, slots=True)
class NearOptions:
    """What ``OPTIONS["near"]`` says.

    Attributes:
        max_entries: The most copies in a process.
        max_age: Seconds that a copy is good at most, whatever its node tells.
        policy: Which copy is evicted to make room for another.
        max_bytes: The most bytes of all copies' keys and records together; None: any.
        max_record_bytes: Longer records are not copied; None: all are.
    """

    max_entries: int = field(default=10_000, metadata={"rule": Whole(1, 100_000_000)})
    max_age: float = field(default=5.0, metadata={"rule": _SECONDS})
    policy: str = field(default="s3fifo", metadata={"rule": Choice(tuple(POLICIES))})
    max_bytes: int | None = field(default=None, metadata={"rule": Optional(Whole(1, 2**60))})
    max_record_bytes: int | None = field(default=None, metadata={"rule": Optional(Whole(1, 2**31))})


@dataclass(frozen=True, slots=True)
class EvictionOptions:
    """What ``OPTIONS["eviction"]`` says: how the nodes should evict, which is theirs to do.

    Attributes:
        maxmemory: Bytes that each node may use; as text such as ``"256mb"``, too.
        policy: What ``maxmemory-policy`` should be.
    """

    maxmemory: int | None = field(default=None, metadata={"rule": Optional(Whole(1, 2**60))})
    policy: str | None = field(default=None, metadata={"rule": Optional(Choice(_EVICTIONS))})


@dataclass(frozen=True, slots=True)
class RingOptions:
    """What ``LOCATION`` and ``OPTIONS`` of a cache alias say; times in seconds, sizes in bytes.

    Attributes:
        nodes: The nodes of the ring, in the order of ``LOCATION``.
        connect_timeout: How long a connection may take to stand.
        socket_timeout: How long a node may take to answer.
        on_node_failure: ``"miss"``: what a dead node holds is a miss; ``"raise"``:
            NodeUnavailableError.
        replay_limit: The most keys that a node is told of one by one when it is back; one
            that missed more deletes is cleared of this alias' keys.
        joining: The nodes of the ring that is to be entered, as ``LOCATION`` will name them;
            deletes go there too.
        leaving: The nodes of the ring that was left, as ``LOCATION`` named them; deletes go
            there first, and a miss looks there.
        warm: Whether a miss looks at the ring that was left.
        gutter: Spare nodes that take the keys of a node that is ejected.
        gutter_timeout: How long they keep anything at most.
        lease_timeout: How long the holder of a lease may take to fill.
        quarantine_timeout: How long a strict write keeps its keys from being filled; its
            transaction must be shorter, and on Postgres 17 and later is made to be.
        fill: How a lease is filled: ``"native"`` (``SET … IFEQ``), ``"script"``, or
            ``"auto"``: native where the server has it.
        lease_on_get: A ``get`` that finds nothing takes the lease, and the ``set`` of the
            same key in the same request fills by it; so code that gets, loads and sets by
            itself cannot set what is stale.
        stale_for: For how long a loaded value may be served past its timeout, while one
            caller loads it again; 0: not at all. A call or manager may say otherwise.
        jitter: Up to what share a loaded value's timeout is shortened, at random, so that
            what was filled together does not expire together; 0 to below 1.
        early_refresh_beta: How eagerly a value is loaded again before its time: 1.0 is
            optimal for most, more is earlier, 0 is never.
        near: The near cache: copies in the process of what was read. A dict of
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
    """

    nodes: tuple[NodeAddress, ...]
    connect_timeout: float = field(default=0.25, metadata={"rule": _SECONDS})
    socket_timeout: float = field(default=0.25, metadata={"rule": _SECONDS})
    on_node_failure: str = field(default="miss", metadata={"rule": Choice(("miss", "raise"))})
    replay_limit: int = field(default=10_000, metadata={"rule": Whole(1, 10_000_000)})
    joining: tuple[NodeAddress, ...] = ()
    leaving: tuple[NodeAddress, ...] = ()
    gutter: tuple[NodeAddress, ...] = ()
    gutter_timeout: float = field(default=10.0, metadata={"rule": _SECONDS})
    warm: bool = field(default=True, metadata={"rule": Flag()})
    lease_timeout: float = field(default=5.0, metadata={"rule": _SECONDS})
    quarantine_timeout: float = field(default=30.0, metadata={"rule": _SECONDS})
    fill: str = field(default="auto", metadata={"rule": Choice(("auto", "native", "script"))})
    lease_on_get: bool = field(default=False, metadata={"rule": Flag()})
    stale_for: float = field(default=0.0, metadata={"rule": Number(0, unit=" seconds")})
    jitter: float = field(default=0.0, metadata={"rule": Number(0, below=1)})
    early_refresh_beta: float = field(default=1.0, metadata={"rule": Number(0)})
    near: NearOptions | None = None
    eviction: EvictionOptions | None = None
    codec: str = field(default="auto", metadata={"rule": Choice(tuple(CODECS))})
    compressor: str = field(default="none", metadata={"rule": Choice(("none", *COMPRESSORS))})
    compress_over_bytes: int = field(default=1024, metadata={"rule": Whole(0, 2**31)})

    @classmethod
    def read(cls, location: object, options: object, path: str) -> RingOptions:
        """Validate a settings block whole.

        Args:
            location: A URL, several in one string, or a list of them.
            options: The alias' ``OPTIONS``, lower case.
            path: What the block is called, such as ``CACHES['default']``.

        Raises:
            ConfigurationError: With every fault found.
        """
        faults = Faults(path)
        nodes = parse_nodes(location, faults.at("LOCATION"))
        if not nodes and not faults.found:
            faults.add(
                "LOCATION", "names no node; give at least one URL such as 'redis://host:6379/0?name=a'"
            )
        ours: dict[str, Any] = {}
        if isinstance(options, Mapping):
            ours = {name: value for name, value in options.items() if name not in _DJANGOS_OWN}
            near = _block(NearOptions, ours.pop("near", None), faults.at("OPTIONS").at("near"))
            eviction = _block(
                EvictionOptions, _in_bytes(ours.pop("eviction", None)), faults.at("OPTIONS").at("eviction")
            )
            others: dict[str, object] = {name: ours.pop(name) for name in _OTHER_RINGS if name in ours}
            for name in list(ours):
                if text := peer_option(name):
                    faults.at("OPTIONS").add(name, text)
                    del ours[name]
            check_fields(cls, ours, faults.at("OPTIONS"), others=(*_OTHER_RINGS, "near", "eviction"))
            ours |= _other_rings(others, nodes, faults.at("OPTIONS"))
            ours |= {"near": near, "eviction": eviction}
        else:
            faults.add("OPTIONS", f"must be a dict, got a {type(options).__name__}")
        faults.raise_any()
        return cls(nodes=nodes, **ours)

    @property
    def all_nodes(self) -> tuple[NodeAddress, ...]:
        """The nodes of the ring, after them those of the ring that is entered or left, and the gutter's.

        Each once, by its place. Of two under one name the other ring's is called so, that errors
        tell them apart.
        """
        names, endpoints = {node.name for node in self.nodes}, {node.endpoint for node in self.nodes}
        others = tuple(
            replace(node, name=f"{node.name} ({change})") if node.name in names else node
            for change, ring in (("joining", self.joining), ("leaving", self.leaving))
            for node in ring
            if node.endpoint not in endpoints
        )
        return self.nodes + others + self.gutter


def _block(kind: type[_Block], given: object, faults: Faults) -> _Block | None:
    """Return the options of a dict of their own; None if there is none, or it has faults."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        faults.add(None, f"must be a dict or None, got a {type(given).__name__}")
        return None
    before = len(faults.found)
    check_fields(kind, given, faults)  # type: ignore[arg-type]  # each is a dataclass
    return kind(**given) if len(faults.found) == before else None


def _in_bytes(given: object) -> object:
    """Return the block with ``maxmemory`` as a number, where it is text that says one."""
    if not isinstance(given, Mapping) or not isinstance(given.get("maxmemory"), str):
        return given
    found = _BYTES.fullmatch(given["maxmemory"].strip())
    if found is None:
        return given
    return {**given, "maxmemory": int(found[1]) * _UNITS[(found[2] or "").lower()]}


def _other_rings(
    given: Mapping[str, object], nodes: tuple[NodeAddress, ...], faults: Faults
) -> dict[str, tuple[NodeAddress, ...]]:
    """Return the nodes of ``joining`` or ``leaving``, and of ``gutter``.

    It is a fault to say both of the former, or what stands already.
    """
    found = {name: parse_nodes(urls, faults.at(name)) for name, urls in given.items()}
    changes = {name: found[name] for name in _CHANGES if found.get(name)}
    if len(changes) > 1:
        faults.add("leaving", "a ring is entered or left, not both at once; end the one change first")
    for name, others in changes.items():
        for text in change_faults(nodes, others):
            faults.add(name, text)
    members = [node for ring in (nodes, *changes.values()) for node in ring]
    for spare in found.get("gutter", ()):
        if any(spare.name == node.name or spare.endpoint == node.endpoint for node in members):
            faults.add("gutter", f"{spare.name!r} is a node of the ring; the gutter's nodes are spare ones")
    return found


def change_faults(nodes: Sequence[NodeAddress], others: Sequence[NodeAddress]) -> list[str]:
    """Return why the ring of ``LOCATION`` cannot be changed to, or from, the ring of other nodes."""
    if {(n.name, n.weight, n.endpoint) for n in others} == {(n.name, n.weight, n.endpoint) for n in nodes}:
        return ["names the nodes that LOCATION has: nothing would move; leave it out"]
    names = {node.endpoint: node.name for node in nodes}
    return [
        f"has as {node.name!r} the server that LOCATION has as {names[node.endpoint]!r}; "
        "a server keeps its name while the ring is changed"
        for node in others
        if names.get(node.endpoint, node.name) != node.name
    ]
