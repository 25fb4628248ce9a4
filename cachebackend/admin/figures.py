"""What the page shows: every figure with where it is from; what cannot be seen is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import DatabaseError, connections

from cachebackend import protocol, writebehind
from cachebackend.backend import ring_cache
from cachebackend.backend.counting import counts_by_minute, fold_counts
from cachebackend.client import RingClient
from cachebackend.codec import Codec, Kind
from cachebackend.codec.record import CodecId
from cachebackend.conf import write_behind_options
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.invalidation import outbox_lag
from cachebackend.invalidation.outbox import has_outbox, keys_in
from cachebackend.models import OutboxRow
from cachebackend.node.breaker import UP
from cachebackend.ring import slot_of
from cachebackend.stats import Counts

__all__ = [
    "AliasFigures",
    "KeyFigures",
    "NodeFigures",
    "QueueFigures",
    "alias_figures",
    "key_figures",
    "queue_figures",
]

#: Minutes that the charts show.
MINUTES = 60
#: A row that is owed for longer says that no relay runs, or a node is gone.
WORRYING_LAG_SECONDS = 10.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A node, as it says itself and as this process sees it.

    Attributes:
        name: Its name.
        share: Its share of the slots, 0 to 1.
        state: ``up``, ``ejected`` or ``replaying`` for this process; ``down`` if it was asked
            just now in vain.
        since: When that began, in seconds since 1970.
        error: Why it is not up.
        milliseconds: What a PING took.
        info: What it says of itself, by the names of ``INFO``.
    """

    name: str
    share: float
    state: str
    since: float | None
    error: str
    milliseconds: float | None
    info: dict[str, str]

    @property
    def is_well(self) -> bool:
        """Whether it answers."""
        return self.state == UP

    @property
    def version(self) -> str:
        """The server and its version."""
        if "valkey_version" in self.info:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.info['redis_version']}" if "redis_version" in self.info else ""

    @property
    def keys(self) -> int:
        """How many keys it holds, in all databases."""
        databases = [value for name, value in self.info.items() if name.startswith("db") and "keys=" in value]
        return sum(int(value.partition("keys=")[2].partition(",")[0]) for value in databases)

    @property
    def hit_ratio(self) -> float | None:
        """The server's own, of all its clients since it was started."""
        hits, misses = int(self.info.get("keyspace_hits", 0)), int(self.info.get("keyspace_misses", 0))
        return hits / (hits + misses) if hits + misses else None


@dataclass(frozen=True, slots=True)
class AliasFigures:
    """One cache alias.

    Attributes:
        alias: Its name.
        nodes: Its nodes.
        minutes: Counts of all processes, by minute since 1970, the oldest first; None for a minute
            that cannot be seen.
        hour: The sum of those that can.
        faults: What is wrong, a sentence each.
    """

    alias: str
    nodes: list[NodeFigures]
    minutes: dict[int, Counts | None]
    hour: Counts
    faults: list[str]

    @property
    def hit_ratio(self) -> float | None:
        """Over the hour, 0 to 1; None if nothing was asked for."""
        return hit_ratio(self.hour)


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Invalidation and write-behind.

    Attributes:
        lag: Age of the oldest delete that is owed, in seconds; None if it cannot be seen, as for
            all that follow.
        owed: How many outbox rows there are.
        is_on: Whether write-behind is set up.
        partitions: The partitions that hold or have held writes.
        nodes: The queue nodes by name, and whether each answers.
        waiting: Changes that wait.
        oldest: For how long the oldest has, in seconds.
        parked: Writes that Postgres refused.
        rows: Rows that landed batches changed, since the queues were new.
        faults: What is wrong, a sentence each.
    """

    lag: float | None = None
    owed: int | None = None
    is_on: bool = False
    partitions: list[writebehind.PartitionStatus] = field(default_factory=list)
    nodes: dict[str, bool] = field(default_factory=dict)
    waiting: int | None = None
    oldest: float | None = None
    parked: int | None = None
    rows: int | None = None
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """Who owns a key, and what it holds.

    Attributes:
        key: As Django calls it.
        made: As the nodes know it.
        owner: The name of its node.
        slot: Its slot.
        found: What stands there; None if the node did not say.
        codec: What wrote its payload, in words.
        age: Seconds since it was loaded, as far as that can be told.
        owed: Whether an outbox row says that it is to be deleted.
        value: The value in words, if it may be shown and can be without unpickling.
        error: Why nothing is known.
    """

    key: str
    made: str
    owner: str
    slot: int
    found: protocol.Inspected | None = None
    codec: str = ""
    owed: bool = False
    value: str | None = None
    error: str = ""


def hit_ratio(counts: Counts) -> float | None:
    """Return the share of keys that were found, 0 to 1; None if none was asked for."""
    asked = counts.hits + counts.misses
    return counts.hits / asked if asked else None


def alias_figures(alias: str) -> AliasFigures:
    """Return what is known of an alias; a node that does not answer is said to be down."""
    cache = ring_cache(alias)
    client = cache.client
    fold_counts(alias)
    infos = client.run(protocol.node_infos(client.context))
    shares = client.ring.shares()
    slots = sum(shares)
    nodes, faults = [], []
    for node, share, info in zip(client.nodes[: len(shares)], shares, infos, strict=True):
        breaker = node.breaker
        state = breaker.state if breaker else None
        begun = time.perf_counter()
        answers = not isinstance(info, RingCacheError) and not isinstance(
            node.call((b"PING",)), RingCacheError
        )
        taken = (time.perf_counter() - begun) * 1e3 if answers else None
        name = state.state if state and (state.state != UP or answers) else ("up" if answers else "down")
        error = str(info) if isinstance(info, RingCacheError) else ""
        nodes.append(
            NodeFigures(
                node.name,
                share / slots,
                name,
                state.since if state else None,
                error,
                taken,
                {} if isinstance(info, RingCacheError) else info,
            )
        )
        if error:
            faults.append(f"Node {node.name} of {alias!r} does not answer: {error}")
    minutes = counts_by_minute(alias, MINUTES)
    hour = Counts()
    for counts in filter(None, minutes.values()):
        hour.add(counts)
    if unseen := sum(counts is None for counts in minutes.values()):
        faults.append(f"{unseen} of {MINUTES} minutes of {alias!r} cannot be seen; the sums lack them.")
    return AliasFigures(alias, nodes, minutes, hour, faults)


def queue_figures() -> QueueFigures:
    """Return how invalidation and write-behind are; what cannot be seen is a fault."""
    faults: list[str] = []
    lag = owed = None
    try:
        databases = [using for using in connections if has_outbox(using)]
        lag = max(map(outbox_lag, databases), default=0.0)
        owed = sum(OutboxRow.objects.using(using).count() for using in databases)
        if lag > WORRYING_LAG_SECONDS:
            faults.append(f"Deletes have been owed for {lag:.0f} s: is a worker running, is every node up?")
    except DatabaseError as error:
        faults.append(f"The database does not answer, so the outbox cannot be seen: {error}")
    options = write_behind_options()
    if not options.nodes:
        return QueueFigures(lag, owed, faults=faults)
    try:
        partitions = writebehind.partition_statuses()
        faults += writebehind.node_faults() + sorted({p.error for p in partitions if p.error})
    except (RingCacheError, ConfigurationError) as error:
        return QueueFigures(lag, owed, is_on=True, faults=[*faults, f"The queue cannot be seen: {error}"])
    waiting = oldest = parked = rows = None
    sees_queues = all(each.is_queue_seen for each in partitions)
    if sees_queues:
        waiting = sum(each.fields for each in partitions)
        oldest = max((each.oldest_seconds for each in partitions), default=0.0)
        if oldest > 30 * options.flush_interval:
            faults.append(f"Writes have waited for {oldest:.0f} s: is a worker running?")
    if owed is not None and all(each.is_database_seen for each in partitions):
        parked = sum({each.partition: each.parked for each in partitions}.values())
        rows = sum(each.rows for each in partitions) if sees_queues else None
        if parked:
            faults.append(f"Postgres refused {parked} writes, which are parked.")
    away = {each.node for each in partitions if not each.is_queue_seen}
    return QueueFigures(
        lag,
        owed,
        is_on=True,
        partitions=[each for each in partitions if each.fields or each.landed or each.parked or each.error],
        nodes={node.name: node.name not in away for node in options.all_nodes},
        waiting=waiting,
        oldest=oldest,
        parked=parked,
        rows=rows,
        faults=faults,
    )


def key_figures(alias: str, key: str, version: int | None, *, shows_value: bool) -> KeyFigures:
    """Return who owns a key and what it holds; a value only if asked for, and never by unpickling."""
    cache = ring_cache(alias)
    client = cache.client
    made = cache.key_bytes(key, version)
    owner = client.ring.owner(made)
    known: dict[str, Any] = {
        "key": key,
        "made": made.decode("utf-8", "replace"),
        "owner": client.ring.names[owner],
        "slot": slot_of(made),
    }
    try:
        found = client.run(protocol.inspect(client.context, made))
    except RingCacheError as error:
        return KeyFigures(**known, error=str(error))
    codec = "" if found.codec is None else _in_words(found.codec)
    value = _value(client.context.codec, found) if shows_value else None
    return KeyFigures(**known, found=found, codec=codec, owed=_is_owed(alias, client, made), value=value)


def _in_words(codec: int) -> str:
    try:
        return CodecId(codec).name.lower().replace("_", " ")
    except ValueError:
        return f"codec {codec:#04x}, which is not known here"


def _value(codec: Codec, found: protocol.Inspected) -> str | None:
    if found.kind not in {Kind.INTEGER.name.lower(), "value", "stale"}:
        return None
    if found.codec in {CodecId.PICKLE, CodecId.SIGNED_PICKLE}:
        return "(a pickle, which this page does not load)"
    try:
        return repr(codec.decode(found.record))[:10_000]
    except RingCacheError as error:
        return f"(cannot be read: {error})"


def _is_owed(alias: str, client: RingClient, key: bytes) -> bool:
    holders = {node.place for at, node in enumerate(client.nodes) if client.context.may_hold(at, key)}
    try:
        return any(
            key in owed[alias] or row.node in holders
            for using in filter(has_outbox, connections)
            for row in OutboxRow.objects.using(using).order_by("-pk")[:1000]
            if alias in (owed := keys_in(row))
        )
    except DatabaseError:
        return False


def attempt(ask: Callable[[], T]) -> T | str:
    """Return an answer, or in words why there is none: the page stays up whatever is away."""
    try:
        return ask()
    except (RingCacheError, DatabaseError) as error:
        return str(error)
