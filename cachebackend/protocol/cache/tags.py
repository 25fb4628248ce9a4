"""Tags: keys that hold a random token; a value is a hit while its tags have the tokens that it records.

A reader takes the tokens before the load, never after it:

    1. reader    acquires the lease, and in the same scatter reads tag token T1
    2. reader    SELECT             -> the old rows
    3. writer    COMMIT, DEL tag    -> T1 is gone
    4. reader    fills the old value under T1
    5. anyone    finds the value, and the tag without T1: a miss

To invalidate a tag is to delete its key. A tag that was evicted costs misses, never a stale value.

A script runs on the node of its key, and the tags may be on other nodes. So a script that meets a
value with tags changes nothing and returns the value's tag block; ``with_checked_tags`` compares
the tokens, and calls the script again with its verdict. The verdict holds for that block only: if
the value was replaced meanwhile, the script returns the new block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from cachebackend.codec import has_tags, tag_block_of, tag_record
from cachebackend.effects import Operation, Reply, Request, Send
from cachebackend.protocol.cache.compare_and_set import ConditionalSet, SetIfAbsent
from cachebackend.protocol.cache.shapes import (
    ShapeEntry,
    register_requests,
    settle_registrations,
    shape_token_requests,
    shape_tokens_of,
)
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.rounds import MAX_TRIES, endless

__all__ = [
    "TokenRead",
    "add_taken",
    "has_tag_tokens",
    "new_token_requests",
    "read_block_tokens",
    "read_tokens",
    "remember_tags",
    "take_missing_tokens",
    "with_checked_tags",
]

#: Milliseconds that a tag's token lives. When it expires, the values loaded under it are misses.
TAG_MS = 7 * 24 * 3600 * 1000


#: Keys whose tags are remembered, and the most tags of such a key: together at most some megabytes.
KNOWN_KEYS, KNOWN_TAGS = 4096, 20


def has_tag_tokens(reply: Reply) -> bool:
    """Return whether a reply to GET is a value that records tag tokens, which must be checked."""
    return reply.__class__ is bytes and has_tags(reply)


class TokenRead:
    """A read of the tokens of tags, with one command for each of their nodes, and of shapes.

    Attributes:
        requests: What is sent.
    """

    __slots__ = ("_groups", "_shapes", "requests")

    def __init__(self, context: Context, tags: Iterable[bytes], shapes: Sequence[ShapeEntry] = ()) -> None:
        self._groups: dict[int, list[bytes]] = {}
        for tag in tags:
            self._groups.setdefault(context.serving_node(tag), []).append(tag)
        self._shapes = shapes
        self.requests: list[Request] = [(node, (b"MGET", *group)) for node, group in self._groups.items()]
        self.requests += shape_token_requests(context, shapes)

    def settle(self, tokens: Tokens, replies: Sequence[Reply]) -> None:
        """Add the tokens in the replies; a tag or shape has none if it is gone, or if its node failed."""
        of_tags = len(self._groups)
        if self._shapes:
            tokens.add(shape_tokens_of(self._shapes, replies[of_tags:]))
        for tags, reply in zip(self._groups.values(), replies[:of_tags], strict=True):
            records = reply if reply.__class__ is list else [None] * len(tags)
            tokens.add({tag: _token_in(record) for tag, record in zip(tags, records, strict=True)})


def _token_in(record: Reply) -> bytes | None:
    """Return the token in the record of a tag; None if it is not one."""
    return record[1:] if record.__class__ is bytes and record[:1] == b"T" else None


def remember_tags(context: Context, key: bytes, tags: Collection[bytes]) -> None:
    """Remember the tags that the value of a key has: the next read reads their tokens with the value."""
    known = context.known_tags
    if not 0 < len(tags) <= KNOWN_TAGS:
        known.pop(key, None)
        return
    if len(known) >= KNOWN_KEYS:
        known.clear()
    known[key] = tuple(tags)


def read_tokens(context: Context, tokens: Tokens, replies: Iterable[Reply]) -> Operation[Tokens]:
    """Add the tokens that the tags of the values in some replies to GET have now; return all tokens."""
    blocks = {tag_block_of(reply) for reply in replies if has_tag_tokens(reply)}
    return read_block_tokens(context, tokens, blocks)


def read_block_tokens(context: Context, tokens: Tokens, blocks: Iterable[bytes]) -> Operation[Tokens]:
    """Add the tokens that the tags in some tag blocks have now; return all tokens."""
    if tags := tokens.unread(blocks):
        read = TokenRead(context, tags)
        read.settle(tokens, (yield Send(read.requests)))
    return tokens


def with_checked_tags(
    context: Context, node: int, attempt: Callable[[bytes], Operation[Reply]]
) -> Operation[Reply]:
    """Run a script that needs a value, and check the tags of that value for it.

    Args:
        context: The alias.
        node: The index of the node that runs the script.
        attempt: Runs the script with a verdict, and returns its reply: a number, or a tag block to check.
    """
    reply = yield from attempt(b"")
    for _ in range(MAX_TRIES):
        if reply.__class__ is not bytes:
            return reply
        tokens = yield from read_block_tokens(context, Tokens(), [reply])
        is_valid = bool(reply) and tokens.are_recorded_in(reply)
        reply = yield from attempt((b"1" if is_valid else b"0") + reply)
    return reply if reply.__class__ is not bytes else endless(context.fail_node, node)


def new_token_requests(context: Context, tags: Sequence[bytes]) -> list[SetIfAbsent]:
    """Return the request that reads each tag's token, and stores a new one if there is none."""
    return [
        SetIfAbsent(context.serving_node(tag), tag, tag_record(context.clock.token()), TAG_MS) for tag in tags
    ]


def add_taken(tokens: Tokens, requests: Sequence[SetIfAbsent], replies: Sequence[Reply]) -> None:
    """Add the tokens in the replies to ``new_token_requests``: ours for a tag that had none."""
    for request, reply in zip(requests, replies, strict=True):
        tokens.add({request.key: _token_in(request.record if reply is None else reply)})


def take_missing_tokens(
    context: Context, tokens: Tokens, shapes: Sequence[ShapeEntry] = ()
) -> Operation[None]:
    """Store a new token for each required tag that has none, and register the shapes that are missing.

    Before a load, and never after it.
    """
    missing = tokens.missing()
    if not missing:
        return
    unregistered = [entry for entry in shapes if entry.name in missing]
    names = {entry.name for entry in unregistered}
    requests = new_token_requests(context, [tag for tag in missing if tag not in names])
    registrations = register_requests(context, unregistered)
    conditional: list[ConditionalSet] = [*requests, *registrations]
    replies = yield Send([each.request(context) for each in conditional])
    add_taken(tokens, requests, replies[: len(requests)])
    tokens.add(settle_registrations(context, unregistered, replies[len(requests) :]))
