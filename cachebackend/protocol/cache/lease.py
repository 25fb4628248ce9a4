"""Leases: the right to fill one key, and claims: the right to refresh a value that is still served.

A read asks for the value and the lease at once: a random token, stored where the value will be
if the key holds nothing. Only the holder loads, and its fill is a compare-and-set against its
token. Every change of the key in between removes the token, so the fill of an old value fails:

    1. reader    SET key L1 NX GET  -> the key held nothing; the lease is ours
    2. reader    SELECT             -> the old row
    3. writer    UPDATE, COMMIT
    4. writer    DEL key            -> L1 is gone
    5. reader    SET key old IFEQ L1 -> refused; the reader returns what it loaded
    6. anyone    misses, loads the new row

If the writer deleted before it committed, a reader could acquire a lease and load between its
DEL and its COMMIT, and fill the old row until its timeout; so a delete always follows the commit.

A value that is due for a refresh is claimed in the same way: its record is replaced by one that
bears our token, and the fill replaces that. A reader that loses the claim serves the value as it
is. A delete removes a claimed record as it removes a lease.

A holder that has nothing to fill replaces its lease by one without a token, for a moment. The
readers that wait for the lease then load at the same time, and fill nothing; without it they would
acquire and release the lease one after another. The first reader after that moment has a lease again.

A lease that its holder has given up is taken over (see ``protocol.orphans``).

Source: Nishtala et al., "Scaling Memcache at Facebook", NSDI '13, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from cachebackend.blocked_threads import Wait
from cachebackend.clock import TOKEN_BYTES
from cachebackend.codec import RELEASED, Kind, claimed, kind_of, lease_record
from cachebackend.effects import Ask, Operation, Reply, Request, Script, Send, Sleep
from cachebackend.errors import NodeUnavailableError, RecordError, RingCacheError
from cachebackend.loader import held_tokens, may_keep_waiting, may_wait
from cachebackend.protocol.cache.compare_and_set import (
    KEEP_TTL,
    CompareAndSet,
    SetIfAbsent,
    send_conditional,
    set_if_absent_command,
)
from cachebackend.protocol.cache.freshness import CachedValue, is_wrong_type, read_record
from cachebackend.protocol.cache.shapes import ShapeEntry, register_requests, settle_registrations
from cachebackend.protocol.cache.tags import add_taken, new_token_requests
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.node_deletes import release_command
from cachebackend.protocol.rounds import MAX_TRIES, endless
from cachebackend.replies import integer
from cachebackend.tracing import begin

__all__ = [
    "Answers",
    "LeaseRequest",
    "LeaseWait",
    "begin_lease",
    "delete_endless",
    "give_up",
    "may_ask_again",
    "release",
    "request_leases",
    "serves_reads",
    "sort_answers",
]

_DELETE_ENDLESS = Script(__package__, "delete_endless", reply=integer)
K = TypeVar("K")
#: A waiter looks again after the first time, and then after twice the last one, up to the longest.
FIRST_WAIT_SECONDS = 0.005
LONGEST_WAIT_SECONDS = 0.05
#: How many times ``lease_timeout`` a reader waits for one lease after the other, before it loads without one.
#: A holder may die, and the next one has its whole time.
MAX_PERIODS = 3


@dataclass(slots=True)
class LeaseRequest:
    """A request for the right to fill a key: a lease, or a claim on the value that it holds.

    Attributes:
        node: The index of the key's node. A lease that it grants is filled there and nowhere else.
        key: The key.
        token: Our token.
        current: The record that ours replaces; None: the key holds nothing.
        served: The value in ``current``, if it may be served when another process has the claim.
        deadline: When our claim ends, in seconds since 1970.
        other_lease: The lease of another process that the key holds.
        waiting_since: When we began to wait for that lease, by the monotonic clock.
        first_waited: When we began to wait for the first lease of another process.
        tries: How many times we have asked again at once.
    """

    node: int
    key: bytes
    token: bytes
    current: bytes | None = None
    served: CachedValue | None = None
    deadline: float = 0.0
    other_lease: bytes | None = None
    waiting_since: float = 0.0
    first_waited: float = 0.0
    tries: int = 0

    @property
    def record(self) -> bytes:
        """The record that says that we load the key."""
        if self.current is not None and self.served is not None:
            return claimed(self.current, self.token, self.deadline)
        return lease_record(self.token)

    def conditional(self, lease_ms: int) -> SetIfAbsent | CompareAndSet:
        """Return the write that acquires the lease if the key holds nothing, or the claim if it does."""
        if self.current is None:
            return SetIfAbsent(self.node, self.key, self.record, lease_ms)
        ttl_ms = lease_ms if self.served is None else KEEP_TTL
        return CompareAndSet(self.node, self.key, self.current, self.record, ttl_ms)

    def claim(self, context: Context, record: bytes, served: CachedValue) -> None:
        """Ask for a claim on the value that the key holds, instead of a lease."""
        self.current, self.served = record, served
        self.deadline = context.clock.now() + context.options.lease_timeout


def begin_lease(context: Context, key: bytes) -> tuple[LeaseRequest, Request]:
    """Return a request for the lease of a key: what remembers it, and what is sent."""
    token, ttl_ms = context.clock.token(), context.lease_ms
    if context.gutter is None:
        node = context.ring.owner(key)
    else:
        node = context.serving_node(key)
        ttl_ms = context.ttl_at(node, ttl_ms)
    return LeaseRequest(node, key, token), (node, set_if_absent_command(key, lease_record(token), ttl_ms))


def release(context: Context, leases: Sequence[LeaseRequest]) -> Operation[None]:
    """Let others load: delete a lease, undo a claim; each only if the key still holds our record.

    A lease whose node does not answer is given up.
    """
    claims = [lease for lease in leases if lease.current is not None and lease.served is not None]
    if claims:
        undo = [CompareAndSet(c.node, c.key, c.record, c.current or b"", KEEP_TTL) for c in claims]
        yield from send_conditional(context, undo)
    held = [lease for lease in leases if lease not in claims]
    if held:
        replies = yield Send([(lease.node, release_command(lease.key, lease.record)) for lease in held])
        give_up(
            context,
            [
                lease
                for lease, reply in zip(held, replies, strict=True)
                if isinstance(reply, NodeUnavailableError)
            ],
        )


def give_up(context: Context, leases: Iterable[LeaseRequest]) -> None:
    """Remember leases that a node may hold, and that are not used any more. A claim blocks nobody."""
    for lease in leases:
        if lease.served is None:
            context.give_up(lease.node, lease.key, lease.record)


class LeaseWait:
    """The pauses of a miss that waits for another process' lease: 5 ms, doubling to 50, jittered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next = FIRST_WAIT_SECONDS
        self._end_span: Callable[[], None] | None = None
        self._threads: Wait | None = None

    def is_allowed(self, leases: Iterable[LeaseRequest]) -> Operation[bool]:
        """Ask whether the caller may wait; if not, the holder of a lease may wait for the caller."""
        if not may_keep_waiting():
            return True
        if self._threads is None:
            self._threads = Wait()
        records = [lease.other_lease for lease in leases if lease.other_lease is not None]
        question = partial(may_wait, self._threads, records)

        async def async_question() -> bool:
            return question(is_task=True)

        is_allowed: bool = yield Ask(partial(question, is_task=False), async_question)
        return is_allowed

    def pause(self) -> Sleep:
        """Return the next pause; the first one is counted."""
        if self._next == FIRST_WAIT_SECONDS:
            self._context.counters.cell.lease_waits += 1
        if self._end_span is None:
            self._end_span = begin("ringcache.fill_wait")
        seconds = self._next * (0.5 + self._context.clock.random())
        self._next = min(2 * self._next, LONGEST_WAIT_SECONDS)
        return Sleep(seconds)

    def end(self) -> None:
        """End the trace span of the pauses so far, if there were any."""
        if self._threads is not None:
            self._threads.end()
        if self._end_span is not None:
            self._end_span()
            self._end_span = None


@dataclass(slots=True)
class Answers(Generic[K]):
    """The replies to some lease requests, sorted by what follows.

    Attributes:
        granted: The keys that we may load and fill.
        unleased: The keys that we may load but not fill.
        cached: The values of the keys that hold one by now.
        retry: The keys to ask for again.
        must_wait: Whether to pause before that.
    """

    granted: dict[K, LeaseRequest] = field(default_factory=dict)
    unleased: list[K] = field(default_factory=list)
    cached: dict[K, CachedValue] = field(default_factory=dict)
    retry: dict[K, LeaseRequest] = field(default_factory=dict)
    must_wait: bool = False


def request_leases(
    context: Context,
    leases: Collection[LeaseRequest],
    tags: Sequence[bytes],
    shapes: Sequence[ShapeEntry] = (),
) -> Operation[tuple[list[Reply], Tokens]]:
    """Send the request of each lease or claim; return the replies, and the tokens of tags and shapes."""
    tokens = Tokens((*tags, *(entry.name for entry in shapes)))
    taken, registrations = new_token_requests(context, tags), register_requests(context, shapes)
    writes = [*[lease.conditional(context.lease_ms) for lease in leases], *taken, *registrations]
    try:
        replies = yield from send_conditional(context, writes)
    except BaseException:  # cancelled: the requests may have been sent
        give_up(context, leases)
        raise
    of_tags, of_shapes = len(leases), len(leases) + len(taken)
    add_taken(tokens, taken, replies[of_tags:of_shapes])
    tokens.add(settle_registrations(context, shapes, replies[of_shapes:]))
    return replies[:of_tags], tokens


def sort_answers(
    context: Context,
    leases: Mapping[K, LeaseRequest],
    replies: Sequence[Reply],
    tokens: Tokens,
    *,
    allow_stale: bool,
) -> Answers[K]:
    """Sort the replies to lease requests: load and fill, load only, serve, or ask again."""
    answers: Answers[K] = Answers()
    for (name, lease), reply in zip(leases.items(), replies, strict=True):
        is_claim = lease.current is not None
        if reply == b"OK" if is_claim else reply is None or reply == lease.record:
            # (our own record: the reply to an earlier try was lost)
            context.counters.cell.leases_granted += 1
            answers.granted[name] = lease
            context.orphans.discard(lease.current or b"")
        elif is_claim and lease.served is not None:
            answers.cached[name] = lease.served
        elif isinstance(reply, RingCacheError):
            _handle_refusal(context, lease, reply)
            answers.unleased.append(name)
        elif is_claim:  # the record that we would replace has changed: ask again
            lease.current = None
            _ask_again(context, answers, name, lease)
        elif (kind := _kind(reply)) is Kind.QUARANTINE or reply == RELEASED or _blocks_caller(reply, kind):
            answers.unleased.append(name)
        elif kind is Kind.LEASE and reply not in context.orphans:
            now = _note_lease(context, lease, reply)
            if now - lease.waiting_since >= context.options.lease_timeout:
                # It should have expired by now, and never expires if another program stored it: replace it
                lease.current = reply
                _ask_again(context, answers, name, lease)
            elif now - lease.first_waited >= MAX_PERIODS * context.options.lease_timeout:
                answers.unleased.append(name)
            else:
                answers.must_wait = True
                answers.retry[name] = lease
        elif kind is not None and (
            cached := read_record(context, lease.key, reply, tokens, allow_stale=allow_stale)
        ):
            answers.cached[name] = cached
        else:  # stale, under other tags, an orphan, or not of this project: replace it, if it is still there
            lease.current = reply
            _ask_again(context, answers, name, lease)
    return answers


def _ask_again(context: Context, answers: Answers[K], name: K, lease: LeaseRequest) -> None:
    if may_ask_again(context, lease):
        answers.retry[name] = lease
    else:
        answers.unleased.append(name)


def may_ask_again(context: Context, lease: LeaseRequest) -> bool:
    """Return whether to ask for a lease again at once; after too many times its node has failed."""
    lease.tries += 1
    if lease.tries <= MAX_TRIES:
        return True
    _handle_refusal(context, lease, endless(context.fail_node, lease.node))
    return False


def delete_endless(
    context: Context, leases: Iterable[LeaseRequest], replies: Iterable[Reply]
) -> Operation[None]:
    """Delete the quarantines and leases without a token that requests met, if they never expire.

    No process of this project stores one, and nobody could ever fill its key.
    """
    met = [
        lease
        for lease, reply in zip(leases, replies, strict=True)
        if isinstance(reply, bytes) and (reply == RELEASED or _kind(reply) is Kind.QUARANTINE)
    ]
    if met:
        yield Send([(lease.node, _DELETE_ENDLESS.call([lease.key])) for lease in met])


def _blocks_caller(record: bytes, kind: Kind | None) -> bool:
    """Return whether a record is a lease whose loader calls this."""
    if kind is not Kind.LEASE:
        return False
    return any(record == lease_record(token) for token in held_tokens())


def _note_lease(context: Context, lease: LeaseRequest, other: bytes) -> float:
    """Note which lease of another process a key holds, and since when; return the time now.

    A different lease begins another period: the key was invalidated, or the holder died, and the new
    holder is loading.
    """
    now = context.clock.monotonic()
    if other != lease.other_lease:
        if lease.other_lease is None:
            lease.first_waited = now
        lease.other_lease, lease.waiting_since = other, now
    return now


def _handle_refusal(context: Context, lease: LeaseRequest, error: RingCacheError) -> None:
    """Count a node that grants no lease; the value is loaded all the same, unless the settings say raise."""
    if isinstance(error, NodeUnavailableError) and error.was_sent:
        give_up(context, [lease])
    context.counters.cell.node_failures += 1
    if context.options.on_node_failure == "raise" and not is_wrong_type(error):
        raise error
    context.log_limited("lease_failed", "%s; the value is loaded without a lease, and not cached", error)


def serves_reads(error: RingCacheError) -> bool:
    """Return whether a node that refused a lease may still hold the value: it is full, or read-only."""
    if isinstance(error, NodeUnavailableError):
        return not error.ejects
    return not is_wrong_type(error)


def _kind(record: bytes) -> Kind | None:
    """Return the kind of a record; None if no process of this project has stored it."""
    try:
        kind = kind_of(record)
    except RecordError:
        return None
    tokens, rest = divmod(len(record) - 1, TOKEN_BYTES)
    is_lease, is_quarantine = kind is Kind.LEASE, kind is Kind.QUARANTINE
    if (is_lease and (tokens, rest) != (1, 0)) or (is_quarantine and (tokens == 0 or rest)):
        return None
    return kind
