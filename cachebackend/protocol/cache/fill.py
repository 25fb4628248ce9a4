"""Fills: load a value under a lease or claim, and replace our record by it.

A lease is filled, or released, by compare-and-set against the record that we stored ourselves,
at the node that granted it. So any change of the key since then wins over the fill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from cachebackend.codec import RELEASED, Kind, Refresh
from cachebackend.effects import Ask, Continue, Load, Operation, Reply
from cachebackend.errors import ValueTooLongError
from cachebackend.protocol.cache.compare_and_set import NO_EXPIRY, CompareAndSet, send_conditional
from cachebackend.protocol.cache.lease import LONGEST_WAIT_SECONDS, LeaseRequest, give_up, release
from cachebackend.protocol.cache.shapes import ShapeEntry
from cachebackend.protocol.cache.tags import take_missing_tokens
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context

__all__ = [
    "MISSING",
    "FillOptions",
    "Loader",
    "LoaderCall",
    "Unfilled",
    "begin_fill",
    "count_load",
    "load_and_fill",
    "settle_fill",
]

#: A loader that returns this has nothing to cache. Its caller gets it as it is.
MISSING = object()
Loader: TypeAlias = Callable[[], Any]
#: The bytes, and the milliseconds that they live (or NO_EXPIRY).
_Record: TypeAlias = tuple[bytes, int]
K = TypeVar("K")
#: Milliseconds that a lease without a token is stored: every reader that waits looks at least once meanwhile.
RELEASED_MS = int(2 * LONGEST_WAIT_SECONDS * 1000)


class Unfilled(NamedTuple):
    """A loaded value that must not be stored: its lease is released."""

    value: Any


class FillOptions(NamedTuple):
    """How a loaded value is stored.

    Attributes:
        ttl_ms: Milliseconds that it is fresh; None: it does not expire; 0 or less: it is not stored.
        stale_ms: Milliseconds after that, or after an invalidation that allows it, in which it may
            be served while one caller loads it again.
        tags: The keys of its tags.
        shapes: Its shapes in the registry, if it is the result of a query.
        missing_ms: Milliseconds that MISSING is stored, as None; 0: it is not stored.
        may_fill: Asks whether the value could be stored, before the lease of another process is
            waited for; None: it could.
    """

    ttl_ms: int | None
    stale_ms: int = 0
    tags: tuple[bytes, ...] = ()
    missing_ms: int = 0
    may_fill: Ask | None = None
    shapes: tuple[ShapeEntry, ...] = ()

    @property
    def token_names(self) -> tuple[bytes, ...]:
        """What a stored value must record tokens of: its tags and shapes."""
        return (*self.tags, *(entry.name for entry in self.shapes)) if self.shapes else self.tags

    def with_missing_timeout(self, seconds: float) -> FillOptions:
        """Return the same options, but storing MISSING for some seconds."""
        return self._replace(missing_ms=math.ceil(seconds * 1000))


@dataclass(frozen=True, slots=True)
class LoaderCall(Generic[K]):
    """One call of a loader, and the keys that it fills.

    Attributes:
        leases: The keys that we may fill; a loader may load other keys besides.
        loader: The caller's loader.
        values_of: Returns the values, by name, in the loader's result.
    """

    leases: Mapping[K, LeaseRequest]
    loader: Loader
    values_of: Callable[[Any], dict[K, Any]]


def load_and_fill(
    context: Context, call: LoaderCall[K], fill_options: FillOptions, tokens: Tokens
) -> Operation[dict[K, Any]]:
    """Load, fill the keys that we have a lease or claim for, and return the loaded values.

    A loader that fails releases the leases at once; so does a value that must not be stored.
    """
    leases = list(call.leases.values())
    begun = context.clock.monotonic()
    try:
        if leases:
            yield from take_missing_tokens(context, tokens, fill_options.shapes)
        try:
            loaded = yield Load(call.loader, tuple(lease.token for lease in leases))
        finally:
            seconds = count_load(context, begun, leases)
        may_fill = loaded.__class__ is not Unfilled
        values = call.values_of(loaded if may_fill else loaded.value)
        fills = [
            begin_fill(context, lease, values[name], fill_options, tokens, load_seconds=seconds)
            for name, lease in (call.leases.items() if may_fill else ())
        ]
    except GeneratorExit:  # abandoned half way: no driver can send for us
        give_up(context, leases)
        raise
    except BaseException:
        yield from release(context, leases)
        raise
    if not may_fill:  # another reader may be able to fill: it acquires the lease
        yield from release(context, leases)
    yield from _store(context, fills)
    return values


def count_load(context: Context, begun: float, leases: Sequence[LeaseRequest]) -> float:
    """Count a load that began at a (monotonic) time; return the seconds that it took.

    The load of several keys counts for the group of the first one.
    """
    seconds = context.clock.monotonic() - begun
    cell = context.counters.cell
    cell.loads += 1
    cell.load_times.add(seconds)
    if leases:
        context.samples.add_load(leases[0].key, seconds)
    return seconds


def begin_fill(
    context: Context,
    lease: LeaseRequest,
    value: Any,
    fill_options: FillOptions,
    tokens: Tokens,
    *,
    load_seconds: float,
) -> CompareAndSet:
    """Return the write that stores a loaded value under a lease, or releases it if there is none to store.

    Args:
        context: The alias.
        lease: The lease, or the claim.
        value: The loaded value.
        fill_options: How it is stored.
        tokens: The tokens of its tags, taken with the lease.
        load_seconds: What the load took.
    """
    try:
        record = _record_of(context, lease.key, value, fill_options, tokens=tokens, load_seconds=load_seconds)
    except ValueTooLongError as error:
        context.log_limited("value_too_long", "%s; it is returned and not cached", error)
        record = None
    return CompareAndSet(lease.node, lease.key, lease.record, *(record or (RELEASED, RELEASED_MS)))


def _record_of(
    context: Context,
    key: bytes,
    value: Any,
    fill_options: FillOptions,
    *,
    tokens: Tokens,
    load_seconds: float,
) -> _Record | None:
    """Return the record of a loaded value, and its time to live; None if it must not be stored."""
    known = tokens.of_required()
    if known is None:  # a tag whose node did not answer could not invalidate the value
        return None
    encode, ttl_ms = context.codec.encode, fill_options.ttl_ms
    if value is MISSING:
        return (
            (encode(None, key, tags=known), fill_options.missing_ms) if fill_options.missing_ms > 0 else None
        )
    if ttl_ms is None:
        return encode(value, key, tags=known), NO_EXPIRY
    if ttl_ms <= 0:
        return None
    life_ms = ttl_ms + max(0, fill_options.stale_ms)
    early = context.options.early_refresh_beta > 0 and type(value) is not int  # INCRBY needs a bare integer
    if life_ms > ttl_ms or early:
        return encode(value, key, Refresh(context.clock.now() + ttl_ms / 1000, load_seconds), known), life_ms
    return encode(value, key, tags=known), life_ms


def settle_fill(context: Context, fill: CompareAndSet, reply: Reply) -> Continue | None:
    """Return None for a fill that was stored; else ``Continue``, which counts it or sends it as a script."""
    if reply.__class__ is bytes:
        context.drop_near((fill.key,))
        return None
    return Continue(_store(context, [fill], [reply]))


def _store(
    context: Context, fills: Sequence[CompareAndSet], replies: list[Reply] | None = None
) -> Operation[None]:
    """Replace leases and claims by values, and count the fills that were refused."""
    if not fills:
        return
    try:
        replies = yield from send_conditional(context, fills, replies)
    except BaseException:  # cancelled: a fill may not have arrived
        _give_up(context, fills)
        raise
    # A copy may hold what the key held before, and the node's invalidation message may come late
    context.drop_near([fill.key for fill in fills])
    for fill, reply in zip(fills, replies, strict=True):
        if reply is None:
            context.fills_refused(fill.new != RELEASED)
        elif isinstance(reply, Exception):  # costs the fill, not the caller
            _give_up(context, [fill])
            context.counters.cell.node_failures += 1
            context.log_limited("fill_failed", "%s; a value was not filled", reply)


def _give_up(context: Context, fills: Sequence[CompareAndSet]) -> None:
    """Give up the leases that fills may not have replaced."""
    for fill in fills:
        if fill.old[0] == Kind.LEASE:
            context.give_up(fill.node, fill.key, fill.old)
