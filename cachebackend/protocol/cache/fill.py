"""The second half of a miss: load under what was granted, and put the value in its place.

A lease is filled, or given back, by compare-and-set against the record that we put there
ourselves, at the node that granted it; so whatever happened to the key since then wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from cachebackend.codec import Refresh, claimed, lease_record
from cachebackend.effects import Load, Operation, Reply, Script, Send
from cachebackend.protocol.cache.compare_and_set import (
    KEEP_TTL,
    NO_EXPIRY,
    CompareAndSet,
    SetIfAbsent,
    Step,
    take,
)
from cachebackend.protocol.cache.get import Found
from cachebackend.protocol.context import Context

__all__ = [
    "MISSING",
    "FillOptions",
    "LeaseRequest",
    "Loader",
    "LoaderCall",
    "count_load",
    "load_and_fill",
    "put",
    "record_of",
    "release",
]

_RELEASE = Script(__package__, "release")

#: A loader that returns this has nothing to cache; the reader is given it as it is.
MISSING = object()
Loader: TypeAlias = Callable[[], Any]
#: The bytes, and the milliseconds that they live (or NO_EXPIRY).
_Record: TypeAlias = tuple[bytes, int]
K = TypeVar("K")


class FillOptions(NamedTuple):
    """How what was loaded is kept.

    Attributes:
        ttl_ms: Milliseconds that it is fresh; None is for ever, 0 or less not at all.
        stale_ms: Milliseconds after that, or after an invalidation that allows it, in
            which it may be served while one caller loads it again.
        tags: The keys of its tags.
        missing_ms: Milliseconds that MISSING is kept, as None; 0: not at all.
    """

    ttl_ms: int | None
    stale_ms: int = 0
    tags: tuple[bytes, ...] = ()
    missing_ms: int = 0

    def with_missing_timeout(self, seconds: float) -> FillOptions:
        """Return the same, but keeping absence for so long."""
        return self._replace(missing_ms=math.ceil(seconds * 1000))


@dataclass(slots=True)
class LeaseRequest:
    """A key that should be loaded: by a lease, or by a claim on the value that stands.

    Attributes:
        node: The key's owner; what it grants is filled there and nowhere else.
        key: The key.
        token: Ours.
        standing: The record in the place of which ours is put; None: nothing stands.
        served: The value that stands, if it may be served when another has the claim.
        deadline: Until when such a claim is ours; seconds since 1970.
        awaited: Another's lease that was found in the way.
        awaited_since: Since when it is waited for, by the monotonic clock.
    """

    node: int
    key: bytes
    token: bytes
    standing: bytes | None = None
    served: Found | None = None
    deadline: float = 0.0
    awaited: bytes | None = None
    awaited_since: float = 0.0

    @property
    def record(self) -> bytes:
        """What we put in the key's place to say that we load it."""
        if self.standing is not None and self.served is not None:
            return claimed(self.standing, self.token, self.deadline)
        return lease_record(self.token)

    def step(self, lease_ms: int) -> Step:
        """Return the request for the lease if nothing stands, or the claim on what does."""
        if self.standing is None:
            return SetIfAbsent(self.node, self.key, self.record, lease_ms)
        life = lease_ms if self.served is None else KEEP_TTL
        return CompareAndSet(self.node, self.key, self.standing, self.record, life)


@dataclass(frozen=True, slots=True)
class LoaderCall(Generic[K]):
    """One call of a loader, and what it fills.

    Attributes:
        mine: The keys that we were granted; a loader may be asked for others besides.
        loader: The caller's.
        values_of: Returns the values, by name, in what the loader returned.
    """

    mine: Mapping[K, LeaseRequest]
    loader: Loader
    values_of: Callable[[Any], dict[K, Any]]


def load_and_fill(
    context: Context,
    work: LoaderCall[K],
    fill_options: FillOptions,
    tokens: Mapping[bytes, bytes | None],
) -> Operation[dict[K, Any]]:
    """Load, fill what we have a lease or claim on, and return what was loaded.

    A loader that fails gives the leases back at once; so does a value that is not to be kept.
    """
    begun = context.clock.monotonic()
    try:
        try:
            values = work.values_of((yield Load(work.loader)))
        finally:
            took = count_load(context, begun)
        records = {name: record_of(context, values[name], fill_options, tokens, took) for name in work.mine}
    except GeneratorExit:  # dropped half way: nobody is left to send for us, the leases lapse
        raise
    except BaseException:
        yield from release(context, list(work.mine.values()))
        raise
    yield from _fill(context, [(want, records[name]) for name, want in work.mine.items()])
    return values


def count_load(context: Context, begun: float) -> float:
    """Count a load that began then, by the monotonic clock; return the seconds that it took."""
    took = context.clock.monotonic() - begun
    cell = context.counters.cell
    cell.loads += 1
    cell.load_times.add(took)
    return took


def record_of(
    context: Context, value: Any, fill_options: FillOptions, tokens: Mapping[bytes, bytes | None], took: float
) -> _Record | None:
    """Return the record that keeps a loaded value, and its time to live; None if it is not to be kept."""
    known = {tag: token for tag, token in tokens.items() if token is not None}
    if len(known) < len(tokens):  # a tag whose node is away could not take the value back
        return None
    encode, ttl_ms = context.codec.encode, fill_options.ttl_ms
    if value is MISSING:
        return (encode(None, tags=known), fill_options.missing_ms) if fill_options.missing_ms > 0 else None
    if ttl_ms is None:
        return encode(value, tags=known), NO_EXPIRY
    if ttl_ms <= 0:
        return None
    life = ttl_ms + max(0, fill_options.stale_ms)
    early = context.options.early_refresh_beta > 0 and type(value) is not int  # which INCRBY must find bare
    if life > ttl_ms or early:
        return encode(value, Refresh(context.clock.now() + ttl_ms / 1000, took), known), life
    return encode(value, tags=known), life


def release(context: Context, wants: Sequence[LeaseRequest]) -> Operation[None]:
    """Let others load: delete a lease, put back what a claim was made on; each only if ours still stands."""
    claims = [want for want in wants if want.standing is not None and want.served is not None]
    if claims:
        yield from take(
            context,
            [
                CompareAndSet(want.node, want.key, want.record, want.standing or b"", KEEP_TTL)
                for want in claims
            ],
        )
    yield from _release([want for want in wants if want not in claims])


def _release(wants: Sequence[LeaseRequest]) -> Operation[None]:
    """Delete our records, each only if it still stands."""
    if wants:
        yield Send([(want.node, _RELEASE.call([want.key], want.record)) for want in wants])


def _fill(context: Context, fills: Sequence[tuple[LeaseRequest, _Record | None]]) -> Operation[None]:
    """Put each record in the place of ours, if that still stands; at the node that granted it."""
    yield from _release([want for want, record in fills if record is None])
    swaps = [
        CompareAndSet(want.node, want.key, want.record, *record)
        for want, record in fills
        if record is not None
    ]
    if swaps:
        yield from put(context, swaps)


def put(
    context: Context, swaps: Sequence[CompareAndSet], replies: list[Reply] | None = None
) -> Operation[None]:
    """Put values in the places of leases and claims, unless that was sent; count what came of it."""
    replies = yield from take(context, swaps, replies)
    context.drop_near([swap.key for swap in swaps])  # what stood before may be copied; the node tells late
    for reply in replies:
        if reply is None:
            context.fills_refused(1)
        elif isinstance(reply, Exception):  # costs the fill, not the caller
            context.counters.cell.node_failures += 1
            context.log_limited("fill_failed", "%s; a value was not filled", reply)
