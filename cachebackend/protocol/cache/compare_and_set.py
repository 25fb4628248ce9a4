"""Compare-and-set of one key: native where the server has it, by script elsewhere.

``SET … IFEQ`` came with Valkey 8.1 and Redis 8.4. A node is asked once; its refusal is
remembered, and what it refused is sent again as a script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cachebackend.effects import Command, Operation, Reply, Script, Send
from cachebackend.errors import NodeReplyError
from cachebackend.protocol.context import Context

__all__ = ["KEEP_TTL", "NO_EXPIRY", "CompareAndSet", "SetIfAbsent", "Step", "set_if_absent_command", "take"]

_SWAP = Script(__package__, "compare_and_set", "store")

#: Times to live that are no milliseconds.
NO_EXPIRY = -1
KEEP_TTL = -3
_LIVES: dict[int, Command] = {NO_EXPIRY: (), KEEP_TTL: (b"KEEPTTL",)}


class Step(Protocol):
    """A request that can be made of a context."""

    @property
    def node(self) -> int:
        """Return the node that it is made of."""
        ...

    def request(self, context: Context) -> tuple[int, Command]:
        """Return the node and the command."""
        ...


def set_if_absent_command(key: bytes, record: bytes, life: int) -> Command:
    """Return the command that puts a record where nothing stands, for so many milliseconds."""
    return (b"SET", key, record, b"NX", b"GET", b"PX", life)


class SetIfAbsent(NamedTuple):
    """Put a record where nothing stands; the reply is None if it was put, else what stands.

    Attributes:
        node: Where.
        key: The key.
        record: What to put.
        life: Milliseconds to live.
    """

    node: int
    key: bytes
    record: bytes
    life: int

    def request(self, context: Context) -> tuple[int, Command]:
        """Return the request."""
        return self.node, set_if_absent_command(self.key, self.record, context.ttl_at(self.node, self.life))


class CompareAndSet(NamedTuple):
    """Put a record in the place of another, if that still stands.

    Attributes:
        node: Where.
        key: The key.
        old: What must stand.
        new: What to put there.
        life: Milliseconds to live, NO_EXPIRY or KEEP_TTL.
    """

    node: int
    key: bytes
    old: bytes
    new: bytes
    life: int

    def request(self, context: Context) -> tuple[int, Command]:
        """Return the compare-and-set, as its node takes it; the reply is None if it was refused."""
        life = self.life if self.life == KEEP_TTL else context.ttl_at(self.node, self.life)
        if self.is_native(context):
            lives = _LIVES.get(life, (b"PX", life))
            return self.node, (b"SET", self.key, self.new, b"IFEQ", self.old, *lives)
        return self.node, _SWAP.call([self.key], self.old, self.new, life)

    def is_native(self, context: Context) -> bool:
        """Return whether the node is sent ``SET … IFEQ``."""
        how = context.options.fill
        return how == "native" or (how == "auto" and self.node not in context.without_ifeq)


def take(
    context: Context, steps: Sequence[Step], replies: list[Reply] | None = None
) -> Operation[list[Reply]]:
    """Send each step's request, all in one scatter, unless that was done; return the replies."""
    if replies is None:
        replies = yield Send([step.request(context) for step in steps])
    refused = {
        at: steps[at]
        for at, reply in enumerate(replies)
        if reply.__class__ is NodeReplyError
        and "syntax" in str(reply)
        and isinstance(steps[at], CompareAndSet)
        and context.options.fill == "auto"
    }
    if refused:
        context.without_ifeq.update(step.node for step in refused.values())
        again = yield Send([step.request(context) for step in refused.values()])
        for at, reply in zip(refused, again, strict=True):
            replies[at] = reply
    return replies
