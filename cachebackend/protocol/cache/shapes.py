"""The registry of shapes: how a writer learns which cached results of queries its change makes wrong.

A result of a query is stored under tags (``tags``), each of which stands for a shape with values
(``cachebackend.shapes``). The writer of a row cannot know which shapes the queries of other processes
have, so every reader registers the shapes of its query before it loads. The registry of a table is
divided into shards. A shard is a hash on one node: the id of each shape, with a random token and the
description of the shape. A result records the token of each of its shapes beside those of its tags,
and is a hit only while the shard holds these tokens.

    1. reader    acquires the lease, takes the tags' tokens, registers the shapes
    2. reader    SELECT             -> the old rows
    3. writer    COMMIT; reads the shards: the shape is there
    4. writer    deletes the shape's tag with the row's values
    5. reader    fills the old result under the old token: a miss for everyone

    1. writer    COMMIT; reads the shards: the shape is not there, or the shard was evicted
    2. reader    registers the shape, and loads: the new rows. Or it did so before, and the shard was
                 lost since: then the shape has no token, or a new one, and the result is a miss

So a shard may be deleted at any time, which costs misses. A writer deletes a shard that it cannot read.
A shard expires a day after it was made: shapes that no query has any more are gone by then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from cachebackend.clock import TOKEN_BYTES
from cachebackend.effects import Operation, Reply, Request, Script, Send
from cachebackend.errors import RingCacheError, UnconfirmedError
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.confirmations import confirm_requests
from cachebackend.replies import optional_text
from cachebackend.ring import cluster_slot

__all__ = [
    "MAX_SHAPES",
    "RegisterShape",
    "RegisteredShapes",
    "ShapeEntry",
    "count_shapes",
    "describe_shapes",
    "is_full",
    "read_shards",
    "register_requests",
    "settle_registrations",
    "shape_token_requests",
    "shape_tokens_of",
]

#: The most shapes of a shard. A result whose shape does not fit any more is stored under the general shape:
#: every change of its table makes it wrong.
MAX_SHAPES = 64
#: Milliseconds that a shard lives.
SHARD_MS = 24 * 3600 * 1000
#: Seconds for which a shard that was full is taken to be full.
FULL_SECONDS = 600.0
#: The most shards that a process remembers to be full.
_MAX_FULL = 10_000
_REGISTER = Script(__package__, "register_shape", reply=optional_text)


class ShapeEntry(NamedTuple):
    """A shape in the registry.

    Attributes:
        shard: The key of the shard.
        shape: The id of the shape.
        description: What the id stands for.
        is_general: Whether it is the shape without bound columns and of all columns, for which there is
            always room.
    """

    shard: bytes
    shape: bytes
    description: bytes
    is_general: bool = False

    @property
    def name(self) -> bytes:
        """The name under which a result records the shape's token, as it does for the key of a tag."""
        return self.shard + self.shape


class RegisterShape(NamedTuple):
    """Read the token of a shape; register the shape if it is not there.

    Attributes:
        node: The index of the node.
        entry: The shape.
        token: The token that it gets if it is not there.
    """

    node: int
    entry: ShapeEntry
    token: bytes

    def request(self, context: Context) -> Request:
        """Return the request. The reply is the entry that the shard holds; None if the shard is full."""
        entry = self.entry
        ttl_ms = SHARD_MS if context.gutter is None else context.ttl_at(self.node, SHARD_MS)
        limit = MAX_SHAPES + 1 if entry.is_general else MAX_SHAPES
        arguments = (entry.shape, self.token + entry.description, b"%d" % limit, b"%d" % ttl_ms)
        return self.node, _REGISTER.call([entry.shard], *arguments)


class RegisteredShapes(NamedTuple):
    """What a writer has read of the registry.

    Attributes:
        shapes: The ids of the shapes in each shard that could be read.
        unreadable: The shards that a node did not return, or that hold something else. They must be deleted.
        is_confirmed: Whether the replicas of the nodes follow them, if ``wait_replicas`` is set. Else a node
            may have been replaced: the registry must be read again.
    """

    shapes: dict[bytes, set[bytes]]
    unreadable: list[bytes]
    is_confirmed: bool = True


def register_requests(context: Context, entries: Iterable[ShapeEntry]) -> list[RegisterShape]:
    """Return the request that registers each shape and reads its token."""
    return [
        RegisterShape(context.serving_node(entry.shard), entry, context.clock.token()) for entry in entries
    ]


def shape_token_requests(context: Context, entries: Iterable[ShapeEntry]) -> list[Request]:
    """Return the request that reads the token of each shape."""
    return [(context.serving_node(entry.shard), (b"HGET", entry.shard, entry.shape)) for entry in entries]


def shape_tokens_of(entries: Sequence[ShapeEntry], replies: Sequence[Reply]) -> dict[bytes, bytes | None]:
    """Return the token of each shape; None for one that is not registered, or whose node failed."""
    return {
        entry.name: reply[:TOKEN_BYTES]
        if isinstance(reply, bytes) and reply[TOKEN_BYTES:] == entry.description
        else None
        for entry, reply in zip(entries, replies, strict=True)
    }


def settle_registrations(
    context: Context, entries: Sequence[ShapeEntry], replies: Sequence[Reply]
) -> dict[bytes, bytes | None]:
    """Return the tokens in the replies to ``register_requests``; remember which shards are full."""
    for entry, reply in zip(entries, replies, strict=True):
        if reply is None:
            if len(context.full_shards) >= _MAX_FULL:
                context.full_shards.clear()
            context.full_shards[entry.shard] = context.clock.monotonic() + FULL_SECONDS
    return shape_tokens_of(entries, replies)


def is_full(context: Context, shard: bytes) -> bool:
    """Return whether a shard was full a short time ago: only the general shape has room there."""
    until = context.full_shards.get(shard)
    return until is not None and context.clock.monotonic() < until


def read_shards(context: Context, shards: Collection[bytes]) -> Operation[RegisteredShapes]:
    """Read which shapes are registered, at every node that may hold a copy of a shard.

    The change must be committed: a shape that is registered after this belongs to a later load.
    """
    asked = [(node, shard) for shard in shards for node in sorted(context.holders(shard))]
    slots = [(node, cluster_slot(shard)) for node, shard in asked]
    reading = [(node, (b"HKEYS", shard)) for node, shard in asked]
    replies = yield Send([*reading, *confirm_requests(context, slots)])
    failures = [reply for reply in replies[len(asked) :] if isinstance(reply, RingCacheError)]
    if any(not isinstance(reply, UnconfirmedError) for reply in failures):
        # A slot may be moving: its shard is at the server that was asked, or at the other one
        nodes = dict.fromkeys(node for node, _ in asked)
        own = confirm_requests(context, [(node, context.served_slot(node)) for node in nodes])
        replies = yield Send([*reading, *own, *confirm_requests(context, slots, is_followed=True)])
    shapes: dict[bytes, set[bytes]] = {}
    unreadable: dict[bytes, None] = {}
    for (_, shard), reply in zip(asked, replies[: len(asked)], strict=True):
        if isinstance(reply, list):
            shapes.setdefault(shard, set()).update(reply)
        else:
            unreadable[shard] = None
    failures = [reply for reply in replies[len(asked) :] if isinstance(reply, RingCacheError)]
    for failure in failures:
        context.log_limited("registry_unconfirmed", "%s; changes of rows stay in the outbox", failure)
    return RegisteredShapes(
        {shard: ids for shard, ids in shapes.items() if ids and shard not in unreadable},
        list(unreadable),
        not failures,
    )


def count_shapes(context: Context, shards: Collection[bytes]) -> Operation[dict[bytes, int]]:
    """Return how many shapes each shard has, for those whose node answers."""
    replies = yield Send([(context.serving_node(shard), (b"HLEN", shard)) for shard in shards])
    return {shard: reply for shard, reply in zip(shards, replies, strict=True) if isinstance(reply, int)}


def describe_shapes(
    context: Context, entries: Collection[tuple[bytes, bytes]]
) -> Operation[dict[tuple[bytes, bytes], bytes | None]]:
    """Return the description of each shape, by shard and id; None for one that cannot be read.

    A shape that has gone since its shard was read is None, too. The caller then deletes its shard,
    which is right and rare.
    """
    asked = [(node, entry) for entry in entries for node in sorted(context.holders(entry[0]))]
    replies = yield Send([(node, (b"HGET", *entry)) for node, entry in asked])
    found: dict[tuple[bytes, bytes], bytes | None] = dict.fromkeys(entries)
    for (_, entry), reply in zip(asked, replies, strict=True):
        if isinstance(reply, bytes) and found[entry] is None:
            found[entry] = reply[TOKEN_BYTES:]
    return found
