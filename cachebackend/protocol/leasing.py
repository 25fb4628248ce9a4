"""Reads that fill what they miss: one loader a key, and no value from before a write.

A miss takes a lease: a random token, written where the value will stand. Only the
holder loads, and its fill is a compare-and-set against its token. Whatever changes the
key in between takes the token away, so the fill of an old value fails:

    1. reader    SET key L1 NX GET  -> nothing stood; the lease is ours
    2. reader    SELECT             -> the old row
    3. writer    UPDATE, COMMIT
    4. writer    DEL key            -> L1 is gone
    5. reader    SET key old IFEQ L1 -> refused; the reader returns what it loaded
    6. anyone    miss, loads the new row

Had the writer deleted before it committed, a reader could lease and load between 3's
DEL and its COMMIT and fill the old row for good; so a delete follows the commit, always.

Source: Nishtala et al., "Scaling Memcache at Facebook", NSDI '13, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from cachebackend.codec import Kind, decode, kind_of, lease_record
from cachebackend.effects import Command, Load, Operation, Reply, Script, Send, Sleep
from cachebackend.errors import NodeReplyError, RecordError
from cachebackend.protocol.context import Context
from cachebackend.protocol.reading import get_many, value_of
from cachebackend.protocol.writing import expiry

__all__ = ["MISSING", "Loader", "ManyLoader", "get_or_load", "get_or_load_many"]

_FILL = Script("cachebackend.protocol", "fill")
_RELEASE = Script("cachebackend.protocol", "release")

#: A loader that returns this has nothing to cache; the reader is given it as it is.
MISSING = object()
Loader: TypeAlias = Callable[[], Any]
K = TypeVar("K")
#: Takes the caller's names of the keys to load and returns the values that there are.
ManyLoader: TypeAlias = Callable[[list[K]], Any]
#: A waiter looks again after this, doubling up to the second.
FIRST_WAIT_SECONDS = 0.005
LONGEST_WAIT_SECONDS = 0.05
_NO_VALUE = object()


@dataclass(frozen=True, slots=True)
class _Lease:
    """The right to fill one key, at the node that gave it."""

    node: int
    key: bytes
    record: bytes


class _Waiting:
    """How a miss waits for another's lease: 5 ms doubling to 50, jittered, one lease period in all."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next = FIRST_WAIT_SECONDS
        self._ends_at = context.clock.monotonic() + context.options.lease_timeout

    @property
    def is_over(self) -> bool:
        """True when a lease period has passed: load, whoever holds the lease, and do not fill."""
        return self._context.clock.monotonic() >= self._ends_at

    def pause(self) -> Sleep:
        """Return the next pause; the first one is counted."""
        if self._next == FIRST_WAIT_SECONDS:
            self._context.stats.cell.lease_waits += 1
        seconds = self._next * (0.5 + self._context.clock.random())
        self._next = min(2 * self._next, LONGEST_WAIT_SECONDS)
        return Sleep(seconds)


def get_or_load(context: Context, key: bytes, loader: Loader, ttl_ms: int | None) -> Operation[Any]:
    """Return the value of a key; load and fill it if there is none.

    Args:
        context: The alias.
        key: The key.
        loader: Called without arguments, after the lease is held and never before.
        ttl_ms: Milliseconds that the loaded value lives; None is for ever, 0 not at all.
    """
    [reply] = yield Send([(context.ring.owner(key), (b"GET", key))])
    value = value_of(context, reply, _NO_VALUE)
    if value is not _NO_VALUE:
        return value
    lease = _new_lease(context, key)
    waiting = _Waiting(context)
    while True:
        [reply] = yield Send([_ask(context, lease)])
        if _is_granted(context, lease, reply):
            return (yield from _load_and_fill(context, [lease], loader, lambda value: [value], ttl_ms))
        value = _standing(reply)
        if value is not _NO_VALUE:
            return value
        if not _is_lease(reply) or waiting.is_over:
            return (yield from _load(context, loader))
        yield waiting.pause()


def get_or_load_many(
    context: Context, keys: Mapping[K, bytes], loader: ManyLoader[K], ttl_ms: int | None
) -> Operation[dict[K, Any]]:
    """Return the values of many keys; load and fill those that have none, all in one call.

    One scatter reads, one takes the leases, one fills. Keys whose lease another holds are
    waited for, and loaded in a later call if it lapses.

    Args:
        context: The alias.
        keys: The caller's name for each key, and the key.
        loader: Called with the names to load, after their leases are held; returns a dict
            of those that there are.
        ttl_ms: Milliseconds that the loaded values live; None is for ever, 0 not at all.
    """
    found = yield from get_many(context, keys)
    asking = {name: _new_lease(context, key) for name, key in keys.items() if name not in found}
    waiting = _Waiting(context)
    while asking:
        replies = yield Send([_ask(context, lease) for lease in asking.values()])
        mine: dict[K, _Lease] = {}
        unleased: list[K] = []
        others: dict[K, _Lease] = {}
        for (name, lease), reply in zip(asking.items(), replies, strict=True):
            if _is_granted(context, lease, reply):
                mine[name] = lease
            elif (value := _standing(reply)) is not _NO_VALUE:
                found[name] = value
            elif not _is_lease(reply) or waiting.is_over:
                unleased.append(name)
            else:
                others[name] = lease
        if mine or unleased:
            names = [*mine, *unleased]
            loaded = yield from _load_and_fill(
                context,
                list(mine.values()),
                lambda names=names: loader(names),  # type: ignore[misc]  # bound now, the loop goes on
                lambda values, names=tuple(mine): [values.get(name, MISSING) for name in names],  # type: ignore[misc]
                ttl_ms,
            )
            found.update(loaded)
        asking = others
        if asking:
            yield waiting.pause()
    return {name: found[name] for name in keys if name in found}


def _new_lease(context: Context, key: bytes) -> _Lease:
    return _Lease(context.ring.owner(key), key, lease_record(context.clock.token()))


def _ask(context: Context, lease: _Lease) -> tuple[int, Command]:
    """Return the request that takes the lease if the key holds nothing, and else tells what it holds."""
    life_ms = max(1, int(context.options.lease_timeout * 1000))
    return lease.node, (b"SET", lease.key, lease.record, b"NX", b"GET", b"PX", life_ms)


def _is_granted(context: Context, lease: _Lease, reply: Reply) -> bool:
    """Return whether the lease is ours: nothing stood, or our own from a try whose reply was lost."""
    granted = reply is None or reply == lease.record
    context.stats.cell.leases_granted += granted
    return granted


def _standing(reply: Reply) -> Any:
    """Return the value in a record that stood in the way of a lease, if it holds one."""
    if not isinstance(reply, bytes):
        return _NO_VALUE
    try:
        return decode(reply)
    except RecordError:
        return _NO_VALUE


def _is_lease(reply: Reply) -> bool:
    try:
        return isinstance(reply, bytes) and kind_of(reply) is Kind.LEASE
    except RecordError:
        return False


def _load(context: Context, loader: Loader) -> Operation[Any]:
    """Call the loader and count it."""
    begun = context.clock.monotonic()
    try:
        return (yield Load(loader))
    finally:
        cell = context.stats.cell
        cell.loads += 1
        cell.load_seconds += context.clock.monotonic() - begun


def _load_and_fill(
    context: Context,
    leases: Sequence[_Lease],
    loader: Loader,
    values_of: Callable[[Any], list[Any]],
    ttl_ms: int | None,
) -> Operation[Any]:
    """Load under leases that we hold, fill them, and return what was loaded.

    A loader that fails gives the leases back at once; so does a value that is not to be kept.
    """
    try:
        loaded = yield from _load(context, loader)
        records = [
            None if value is MISSING or expiry(ttl_ms) == 0 else context.codec.encode(value)
            for value in values_of(loaded)
        ]
    except GeneratorExit:  # dropped half way: nobody is left to send for us, the leases lapse
        raise
    except BaseException:
        yield from _release(leases)
        raise
    yield from _release([lease for lease, record in zip(leases, records, strict=True) if record is None])
    yield from _fill(
        context,
        [(lease, record) for lease, record in zip(leases, records, strict=True) if record is not None],
        ttl_ms,
    )
    return loaded


def _release(leases: Sequence[_Lease]) -> Operation[None]:
    if leases:
        yield Send([(lease.node, _RELEASE.call([lease.key], lease.record)) for lease in leases])


def _fill(context: Context, fills: Sequence[tuple[_Lease, bytes]], ttl_ms: int | None) -> Operation[None]:
    """Put each record in the place of its lease, if that still stands; at the node that issued it."""
    if not fills:
        return
    replies = yield Send([_fill_request(context, lease, record, ttl_ms) for lease, record in fills])
    lacking = [
        _lacks_ifeq(context, lease.node, reply) for (lease, _), reply in zip(fills, replies, strict=True)
    ]
    for reply, lacks in zip(replies, lacking, strict=True):
        if not lacks:
            _filled(context, reply)
    again = [fill for fill, lacks in zip(fills, lacking, strict=True) if lacks]
    context.without_ifeq.update(lease.node for lease, _ in again)
    yield from _fill(context, again, ttl_ms)


def _fill_request(context: Context, lease: _Lease, record: bytes, ttl_ms: int | None) -> tuple[int, Command]:
    """Return the compare-and-set: native where the server has it, by script elsewhere."""
    how = context.options.fill
    if how == "native" or (how == "auto" and lease.node not in context.without_ifeq):
        life = () if ttl_ms is None else (b"PX", ttl_ms)
        return lease.node, (b"SET", lease.key, record, b"IFEQ", lease.record, *life)
    return lease.node, _FILL.call([lease.key], lease.record, record, expiry(ttl_ms))


def _lacks_ifeq(context: Context, node: int, reply: Reply) -> bool:
    """Return whether a node showed, for the first time, that it does not know ``SET ... IFEQ``."""
    return (
        context.options.fill == "auto"
        and node not in context.without_ifeq
        and isinstance(reply, NodeReplyError)
        and "syntax" in str(reply)
    )


def _filled(context: Context, reply: Reply) -> None:
    """Count a fill that was refused; a node that failed costs the fill, not the caller."""
    if reply is None:
        context.stats.cell.stale_sets_refused += 1
    elif isinstance(reply, Exception):
        context.stats.cell.node_failures += 1
        context.log_sometimes("%s; a value was not filled", reply)
