"""Conditional writes of one key: set if absent, and compare-and-set.

``SET … IFEQ`` exists since Valkey 8.1 and Redis 8.4. A node that refuses it is remembered, and
the same compare-and-set is sent to it again as a script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cachebackend.effects import Command, Operation, Reply, Request, Script, Send
from cachebackend.errors import NodeReplyError
from cachebackend.protocol.context import Context
from cachebackend.replies import optional_text

__all__ = [
    "KEEP_TTL",
    "NO_EXPIRY",
    "CompareAndSet",
    "ConditionalSet",
    "SetIfAbsent",
    "send_conditional",
    "set_if_absent_command",
]

_COMPARE_AND_SET = Script(__package__, "compare_and_set", "store", reply=optional_text)

#: Times to live that are not a number of milliseconds.
NO_EXPIRY = -1
KEEP_TTL = -3
_TTL_ARGUMENTS: dict[int, Command] = {NO_EXPIRY: (), KEEP_TTL: (b"KEEPTTL",)}


class ConditionalSet(Protocol):
    """A conditional write of one key."""

    @property
    def node(self) -> int:
        """Return the index of the node that it is sent to."""
        ...

    def request(self, context: Context) -> Request:
        """Return the request."""
        ...


def set_if_absent_command(key: bytes, record: bytes, ttl_ms: int) -> Command:
    """Return the command that stores a record where the key holds nothing."""
    return (b"SET", key, record, b"NX", b"GET", b"PX", b"%d" % ttl_ms)


class SetIfAbsent(NamedTuple):
    """Store a record where the key holds nothing. The reply is None if it was stored, else the record there.

    Attributes:
        node: The index of the node.
        key: The key.
        record: The record to store.
        ttl_ms: Milliseconds that it lives.
    """

    node: int
    key: bytes
    record: bytes
    ttl_ms: int

    def request(self, context: Context) -> Request:
        """Return the request."""
        ttl_ms = self.ttl_ms if context.gutter is None else context.ttl_at(self.node, self.ttl_ms)
        return self.node, set_if_absent_command(self.key, self.record, ttl_ms)


class CompareAndSet(NamedTuple):
    """Replace a record, if the key still holds it.

    Attributes:
        node: The index of the node.
        key: The key.
        old: The record that the key must hold.
        new: The record that replaces it.
        ttl_ms: Milliseconds that the new one lives, NO_EXPIRY or KEEP_TTL.
    """

    node: int
    key: bytes
    old: bytes
    new: bytes
    ttl_ms: int

    def request(self, context: Context) -> Request:
        """Return the request in the form that its node supports. The reply is None if it was refused."""
        ttl_ms = self.ttl_ms if self.ttl_ms == KEEP_TTL else context.ttl_at(self.node, self.ttl_ms)
        if self._is_native(context):
            arguments = _TTL_ARGUMENTS.get(ttl_ms, (b"PX", b"%d" % ttl_ms))
            return self.node, (b"SET", self.key, self.new, b"IFEQ", self.old, *arguments)
        return self.node, _COMPARE_AND_SET.call([self.key], self.old, self.new, b"%d" % ttl_ms)

    def _is_native(self, context: Context) -> bool:
        how = context.options.fill
        return how == "native" or (how == "auto" and self.node not in context.without_ifeq)


def send_conditional(
    context: Context, writes: Sequence[ConditionalSet], replies: list[Reply] | None = None
) -> Operation[list[Reply]]:
    """Send conditional writes in one scatter and return the replies.

    Args:
        context: The alias.
        writes: The writes.
        replies: Their replies, if they were sent already: what a node did not understand is sent again.
    """
    if replies is None:
        replies = yield Send([write.request(context) for write in writes])
    refused = {
        index: writes[index]
        for index, reply in enumerate(replies)
        if reply.__class__ is NodeReplyError
        and "syntax" in str(reply)
        and isinstance(writes[index], CompareAndSet)
        and context.options.fill == "auto"
    }
    if refused:
        context.without_ifeq.update(write.node for write in refused.values())
        again = yield Send([write.request(context) for write in refused.values()])
        for index, reply in zip(refused, again, strict=True):
            replies[index] = reply
    return replies
