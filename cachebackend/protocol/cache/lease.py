"""Reads that fill what they miss: one loader a key, and no value from before a write.

A read asks for the value and the lease at once: a random token, written where the value
will stand if nothing does. Only the holder loads, and its fill is a compare-and-set
against its token. Whatever changes the key in between takes the token away, so the fill of
an old value fails:

    1. reader    SET key L1 NX GET  -> nothing stood; the lease is ours
    2. reader    SELECT             -> the old row
    3. writer    UPDATE, COMMIT
    4. writer    DEL key            -> L1 is gone
    5. reader    SET key old IFEQ L1 -> refused; the reader returns what it loaded
    6. anyone    miss, loads the new row

Had the writer deleted before it committed, a reader could lease and load between its DEL
and its COMMIT and fill the old row for good; so a delete follows the commit, always.

A value that is due to be loaded again is claimed the same way: its record is swapped for
one that bears our token, and the fill for the new one. Who loses the claim serves what
stands. A delete takes a claimed record away as it takes a lease.

Tags: the tokens are taken in the scatter that takes the lease, before the load, never
after it:

    1. reader    takes the lease, and tag token T1
    2. reader    SELECT             -> the old rows
    3. writer    COMMIT, DEL tag    -> T1 is gone
    4. reader    fills the old value under T1
    5. anyone    finds the value, and the tag without T1: a miss

Source: Nishtala et al., "Scaling Memcache at Facebook", NSDI '13, section 3.2.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from cachebackend.codec import Kind, kind_of, tag_record
from cachebackend.effects import Operation, Reply, Send, Sleep
from cachebackend.errors import NodeUnavailableError, RecordError, RingCacheError
from cachebackend.protocol.cache.compare_and_set import SetIfAbsent, take
from cachebackend.protocol.cache.fill import (
    MISSING,
    FillOptions,
    LeaseRequest,
    Loader,
    LoaderCall,
    load_and_fill,
)
from cachebackend.protocol.cache.get import (
    NOT_PLAIN,
    Found,
    fresh_seconds,
    is_wrong_type,
    look,
    plain_value,
    records_of,
    tags_of_replies,
    token_requests,
    tokens_of,
)
from cachebackend.protocol.cache.near_reads import Copies
from cachebackend.protocol.cache.set import delete
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.ring_change import warm
from cachebackend.tracing import begin

__all__ = ["ManyLoader", "get_or_load", "get_or_load_many", "load_again"]

K = TypeVar("K")
#: Takes the caller's names of the keys to load and returns the values that there are.
ManyLoader: TypeAlias = Callable[[list[K]], Any]
#: The tokens of tags by their keys; None: it cannot be had.
_Tokens: TypeAlias = dict[bytes, bytes | None]
#: A waiter looks again after this, doubling up to the second.
FIRST_WAIT_SECONDS = 0.005
LONGEST_WAIT_SECONDS = 0.05
#: A tag's token lives so long: if it goes, what was loaded under it is loaded again.
TAG_MS = 7 * 24 * 3600 * 1000


class _Waiting:
    """How a miss waits for another's lease: 5 ms doubling to 50, jittered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next = FIRST_WAIT_SECONDS
        self._end_span: Callable[[], None] | None = None

    def pause(self) -> Sleep:
        """Return the next pause; the first one is counted."""
        if self._next == FIRST_WAIT_SECONDS:
            self._context.counters.cell.lease_waits += 1
        if self._end_span is None:
            self._end_span = begin("ringcache.fill_wait")
        seconds = self._next * (0.5 + self._context.clock.random())
        self._next = min(2 * self._next, LONGEST_WAIT_SECONDS)
        return Sleep(seconds)

    def over(self) -> None:
        """End the span of the pauses so far, if there were any."""
        if self._end_span is not None:
            self._end_span()
            self._end_span = None


@dataclass(slots=True)
class _Round(Generic[K]):
    """What one look at the wanted keys came to.

    Attributes:
        mine: Those that we may load and fill.
        unleased: Those that we may load and not fill.
        found: Those whose value stands by now.
        again: Those to ask for again.
        wait: Whether to pause before.
    """

    mine: dict[K, LeaseRequest] = field(default_factory=dict)
    unleased: list[K] = field(default_factory=list)
    found: dict[K, Found] = field(default_factory=dict)
    again: dict[K, LeaseRequest] = field(default_factory=dict)
    wait: bool = False


def get_or_load(
    context: Context,
    key: bytes,
    loader: Loader,
    fill_options: FillOptions,
    *,
    asked: tuple[LeaseRequest, Reply] | None = None,
) -> Operation[Any]:
    """Return the value of a key; load and fill it if there is none, or it is due.

    Args:
        context: The alias.
        key: The key.
        loader: Called without arguments, after the lease is held and never before.
        fill_options: How the loaded value is kept.
        asked: What is wanted, and the reply to the request for its lease, if that was sent: there
            are no tags then, and no copies.
    """
    copies = Copies(context, {key: key})
    if copies.found:
        return copies.found[key]
    want: LeaseRequest
    reply: Reply
    want, reply = asked or (LeaseRequest(context.serving_node(key), key, context.clock.token()), None)
    tags, replies = _tag_steps(context, fill_options), list[Reply]()
    try:
        if asked is None:
            requests = [step.request(context) for step in (want.step(context.lease_ms), *tags)]
            begun = context.counters.begin_get()
            reply, *replies = yield Send([*requests, *copies.begin()])
            context.counters.end_get(begun)
        copies.answered(replies[len(tags) :])
        tokens = _tokens_taken(tags, replies[: len(tags)])
        value = plain_value(context, reply)
        if value is not NOT_PLAIN:
            copies.keep(key, reply, value, math.inf)
            return value
        stands = reply
        if isinstance(reply, RingCacheError) and _serves_reads(reply):
            [stands] = yield Send([(want.node, (b"GET", key))])
        if others := [tag for tag in tags_of_replies([stands]) if tag not in tokens]:
            tokens.update(tokens_of(others, (yield Send(token_requests(context, others)))))
        found = _found(context, stands, tokens, fill_options)
        if found is not None and not found.due:
            copies.keep(key, stands, found.value, fresh_seconds(context, stands))
            return found.value
    finally:
        copies.end()
    if reply is None and context.ring_change is None:  # most misses: the lease is ours
        context.counters.cell.leases_granted += 1
        work = LoaderCall({key: want}, loader, lambda value: {key: value})
        return (yield from load_and_fill(context, work, fill_options, tokens))[key]
    if found is not None:
        _claim(context, want, stands, found)
    taken = None if found is not None else ([reply], tokens)
    values = yield from _resolve(context, {key: want}, lambda _: loader, _the_one, fill_options, asked=taken)
    return values[key]


def get_or_load_many(
    context: Context, keys: Mapping[K, bytes], loader: ManyLoader[K], fill_options: FillOptions
) -> Operation[dict[K, Any]]:
    """Return the values of many keys; load and fill those that have none, or are due, in one call.

    One scatter reads, one takes the leases, one fills. Keys whose lease another holds are
    waited for, and loaded in a later call if it lapses.

    Args:
        context: The alias.
        keys: The caller's name for each key, and the key.
        loader: Called with the names to load, after their leases are held; returns a dict
            of those that there are.
        fill_options: How the loaded values are kept.
    """
    copies = Copies(context, keys)
    found: dict[K, Any] = copies.found
    wants: dict[K, LeaseRequest] = {}
    try:
        records, tokens = yield from records_of(context, copies)
        for name, key in copies.left.items():
            record = records[name]
            stands = _found(context, record, tokens, fill_options)
            if stands is not None and not stands.due:
                found[name] = stands.value
                copies.keep(name, record, stands.value, fresh_seconds(context, record))
                continue
            wants[name] = want = LeaseRequest(context.serving_node(key), key, context.clock.token())
            if stands is not None:
                _claim(context, want, record, stands)
    finally:
        copies.end()
    if wants:
        found.update(
            (
                yield from _resolve(
                    context, wants, lambda names: lambda: loader(names), _those_there_are, fill_options
                )
            )
        )
    return {name: found[name] for name in keys if found.get(name, MISSING) is not MISSING}


def load_again(context: Context, key: bytes, loader: Loader, fill_options: FillOptions) -> Operation[Any]:
    """Load a key and fill it, whatever value stands; return what was loaded.

    What stood is deleted first, so that a load that began before this one cannot fill
    after it.
    """
    yield from delete(context, key)
    want = LeaseRequest(context.serving_node(key), key, context.clock.token())
    values = yield from _resolve(
        context, {key: want}, lambda _: loader, lambda value, names: dict.fromkeys(names, value), fill_options
    )
    return values[key]


def _the_one(loaded: Any, names: Sequence[K]) -> dict[K, Any]:
    return dict.fromkeys(names, loaded)


def _those_there_are(loaded: Mapping[K, Any], names: Sequence[K]) -> dict[K, Any]:
    return {name: loaded.get(name, MISSING) for name in names}


def _found(
    context: Context, reply: Reply, tokens: Mapping[bytes, bytes | None], fill_options: FillOptions
) -> Found | None:
    """Return the value that stands, if it may be served; counts a hit or a miss."""
    found = look(context, reply, tokens, allow_stale=fill_options.stale_ms > 0)
    cell = context.counters.cell
    if found is None:
        cell.misses += 1
    else:
        cell.hits += 1
        cell.stale_hits += found.stale
    return found


def _claim(context: Context, want: LeaseRequest, record: bytes, found: Found) -> None:
    """Have a key loaded by a claim on the value that stands."""
    want.standing, want.served = record, found
    want.deadline = context.clock.now() + context.options.lease_timeout


def _serves_reads(error: RingCacheError) -> bool:
    """Return whether a node refused a lease that may hold the value all the same: full, or read-only."""
    if isinstance(error, NodeUnavailableError):
        return not error.ejects
    return not is_wrong_type(error)


def _tag_steps(context: Context, fill_options: FillOptions) -> list[SetIfAbsent]:
    """Return the request for each tag's token, made now if there is none."""
    return [
        SetIfAbsent(context.serving_node(tag), tag, tag_record(context.clock.token()), TAG_MS)
        for tag in fill_options.tags
    ]


def _tokens_taken(asked: Sequence[SetIfAbsent], replies: Sequence[Reply]) -> _Tokens:
    """Return each tag's token: ours where there was none, None where it cannot be had."""
    if not asked:
        return {}
    records = [put.record if reply is None else reply for put, reply in zip(asked, replies, strict=True)]
    return tokens_of([put.key for put in asked], records)


def _resolve(
    context: Context,
    wants: dict[K, LeaseRequest],
    loader_of: Callable[[list[K]], Loader],
    values_of: Callable[..., dict[K, Any]],
    fill_options: FillOptions,
    *,
    asked: tuple[list[Reply], _Tokens] | None = None,
) -> Operation[dict[K, Any]]:
    """Lease, load and fill what is wanted; wait for what others load.

    Args:
        context: The alias.
        wants: What to load.
        loader_of: Returns the loader of some of the names.
        values_of: Returns the values of some ``names`` in what that loader returned.
        fill_options: How the loaded values are kept.
        asked: The replies to the request for each, and the tokens of the tags, if that was done.
    """
    values: dict[K, Any] = {}
    waiting = _Waiting(context)
    try:
        while wants:
            replies, tokens = asked or (yield from _ask(context, wants.values(), fill_options))
            asked = None
            looked = _sort(context, wants, replies, tokens, allow_stale=fill_options.stale_ms > 0)
            values.update({name: found.value for name, found in looked.found.items()})
            if context.ring_change is not None:
                for name, record in (yield from warm(context, looked.mine)).items():
                    values[name] = context.codec.decode(record)
                    del looked.mine[name]
            names = [*looked.mine, *looked.unleased]
            if names:
                waiting.over()
                split = partial(values_of, names=names)
                values.update(
                    (
                        yield from load_and_fill(
                            context, LoaderCall(looked.mine, loader_of(names), split), fill_options, tokens
                        )
                    )
                )
            wants = looked.again
            if looked.wait:
                yield waiting.pause()
    finally:
        waiting.over()
    return values


def _ask(
    context: Context, wants: Collection[LeaseRequest], fill_options: FillOptions
) -> Operation[tuple[list[Reply], _Tokens]]:
    """Send each key's request for its lease or claim; return the replies, and the tokens of the tags."""
    tags = _tag_steps(context, fill_options)
    replies = yield from take(context, [*[want.step(context.lease_ms) for want in wants], *tags])
    return replies[: len(wants)], _tokens_taken(tags, replies[len(wants) :])


def _sort(
    context: Context,
    wants: Mapping[K, LeaseRequest],
    replies: Sequence[Reply],
    tokens: Mapping[bytes, bytes | None],
    *,
    allow_stale: bool,
) -> _Round[K]:
    """Tell apart what we may load and fill, what stands by now, and what to ask for again."""
    looked: _Round[K] = _Round()
    for (name, want), reply in zip(wants.items(), replies, strict=True):
        claims = want.standing is not None
        if reply == b"OK" if claims else reply is None or reply == want.record:
            # (our own record: an earlier try whose reply was lost)
            context.counters.cell.leases_granted += 1
            looked.mine[name] = want
        elif claims and want.served is not None:
            looked.found[name] = want.served
        elif isinstance(reply, RingCacheError):
            _note_refusal(context, reply)
            looked.unleased.append(name)
        elif claims:  # what we would take over has changed: ask again
            want.standing = None
            looked.again[name] = want
        elif (kind := _kind(reply)) is Kind.QUARANTINE:
            looked.unleased.append(name)
        elif kind is Kind.LEASE:
            if _has_waited_long(context, want, reply):
                looked.unleased.append(name)
            else:
                looked.again[name] = want
                looked.wait = True
        elif kind is not None and (found := look(context, reply, tokens, allow_stale=allow_stale)):
            looked.found[name] = found
        else:  # stale, under other tags, or no record at all: taken over, if it still stands
            want.standing = reply
            looked.again[name] = want
    return looked


def _has_waited_long(context: Context, want: LeaseRequest, lease: bytes) -> bool:
    """Return whether one and the same lease has stood in the way for a whole period.

    It should have lapsed by then. Another's lease begins another period: the key was
    invalidated, or its holder died, and who holds it now is loading.
    """
    now = context.clock.monotonic()
    if lease != want.awaited:
        want.awaited, want.awaited_since = lease, now
    return now - want.awaited_since >= context.options.lease_timeout


def _note_refusal(context: Context, error: RingCacheError) -> None:
    """Count a node that gives no lease; the value is loaded all the same, unless the settings say raise."""
    context.counters.cell.node_failures += 1
    if context.options.on_node_failure == "raise" and not is_wrong_type(error):
        raise error
    context.log_limited("lease_failed", "%s; a value is loaded without a lease, and not kept", error)


def _kind(record: bytes) -> Kind | None:
    try:
        return kind_of(record)
    except RecordError:
        return None
