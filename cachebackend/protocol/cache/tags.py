"""Tags: keys that hold a random token; a value is a hit while its tags have the tokens that it records.

A reader takes the tokens in the scatter that acquires the lease, before the load, never after it:

    1. reader    acquires the lease, and reads tag token T1
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

from collections.abc import Callable, Iterable, Mapping, Sequence

from cachebackend.codec import has_tags, stored_of, tag_record, tags_of_block
from cachebackend.effects import Operation, Reply, Request, Send
from cachebackend.errors import RecordError
from cachebackend.protocol.cache.compare_and_set import SetIfAbsent
from cachebackend.protocol.cache.freshness import Tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.rounds import MAX_TRIES, endless

__all__ = [
    "has_tag_tokens",
    "have_tokens",
    "new_token_requests",
    "read_tokens",
    "tags_of",
    "token_requests",
    "tokens_of",
    "tokens_taken",
    "with_checked_tags",
]

#: Milliseconds that a tag's token lives. When it expires, the values loaded under it are misses.
TAG_MS = 7 * 24 * 3600 * 1000


def has_tag_tokens(reply: Reply) -> bool:
    """Return whether a reply to GET is a value that records tag tokens, which must be checked."""
    return reply.__class__ is bytes and has_tags(reply)


def tags_of(replies: Iterable[Reply]) -> list[bytes]:
    """Return the keys of the tags of the values in some replies to GET."""
    tags: dict[bytes, None] = {}
    for reply in replies:
        if has_tag_tokens(reply):
            try:
                tags.update(dict.fromkeys(stored_of(reply).tags))
            except RecordError:
                continue  # a miss: the reader of the record counts it
    return list(tags)


def token_requests(context: Context, tags: Sequence[bytes]) -> list[Request]:
    """Return the requests that read the tokens of tags."""
    return [(context.serving_node(tag), (b"GET", tag)) for tag in tags]


def tokens_of(tags: Sequence[bytes], replies: Sequence[Reply]) -> dict[bytes, bytes | None]:
    """Return the token in the record of each tag; None for a tag that is gone or whose node failed."""
    return {
        tag: reply[1:] if isinstance(reply, bytes) and reply[:1] == b"T" else None
        for tag, reply in zip(tags, replies, strict=True)
    }


def read_tokens(context: Context, replies: Sequence[Reply]) -> Operation[Tokens]:
    """Read the tokens that the tags of the values in some replies have now."""
    tags = tags_of(replies)
    if not tags:
        return {}
    return tokens_of(tags, (yield Send(token_requests(context, tags))))


def have_tokens(tokens: Tokens, recorded: Mapping[bytes, bytes]) -> bool:
    """Return whether tags have the tokens that a value records."""
    return all(tokens.get(tag) == token for tag, token in recorded.items())


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
        recorded = tags_of_block(reply)
        tags = list(recorded)
        tokens = tokens_of(tags, (yield Send(token_requests(context, tags)))) if tags else {}
        is_valid = bool(tags) and have_tokens(tokens, recorded)
        reply = yield from attempt((b"1" if is_valid else b"0") + reply)
    return reply if reply.__class__ is not bytes else endless(context.fail_node, node)


def new_token_requests(context: Context, tags: Sequence[bytes]) -> list[SetIfAbsent]:
    """Return the request that reads each tag's token, and stores a new one if there is none."""
    return [
        SetIfAbsent(context.serving_node(tag), tag, tag_record(context.clock.token()), TAG_MS) for tag in tags
    ]


def tokens_taken(requests: Sequence[SetIfAbsent], replies: Sequence[Reply]) -> dict[bytes, bytes | None]:
    """Return each tag's token from the replies to ``new_token_requests``: ours where there was none."""
    if not requests:
        return {}
    records = [
        request.record if reply is None else reply for request, reply in zip(requests, replies, strict=True)
    ]
    return tokens_of([request.key for request in requests], records)
