"""Deletes of keys: one key, or many in one scatter, wherever a node may hold them."""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Operation, Reply, Request, Send
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.node_deletes import delete_command
from cachebackend.protocol.ring.write import write, write_by

__all__ = ["begin_delete", "delete", "delete_many", "settle_delete"]


def begin_delete(context: Context, key: bytes) -> Request:
    """Return the request that deletes a key at its owner."""
    return context.ring.owner(key), delete_command((key,))


def settle_delete(context: Context, reply: Reply) -> bool:
    """Return whether the key held something; False if its node did not answer.

    Raises:
        NodeUnavailableError: The node did not answer and ``on_node_failure`` is "raise".
        NodeReplyError: The node refused the command.
    """
    return bool(context.reply_or(reply, 0))


def delete(context: Context, key: bytes) -> Operation[bool]:
    """Delete a key; return whether it held a record."""
    [reply] = yield from write(context, [key], lambda: [begin_delete(context, key)])
    return settle_delete(context, reply)


def delete_many(
    context: Context, keys: Sequence[bytes], *, in_outbox: bool = False
) -> Operation[list[bytes]]:
    """Delete many keys in one scatter; return the keys that a node did not confirm.

    The one operation that never raises when a node fails: the caller decides what happens to
    the unconfirmed keys.

    Args:
        context: The alias.
        keys: The keys.
        in_outbox: Whether an outbox keeps the keys until they are confirmed.
    """
    owners = _delete_at_owners(context, keys, in_outbox)
    unconfirmed, elsewhere = yield from write_by(context, keys, owners, in_outbox=in_outbox)
    return list(dict.fromkeys(unconfirmed + elsewhere))


def _delete_at_owners(context: Context, keys: Sequence[bytes], in_outbox: bool) -> Operation[list[bytes]]:
    groups = context.ring.by_owner((key, key) for key in keys)
    replies = yield Send([(node, delete_command(group)) for node, group in groups.items()])
    unconfirmed: list[bytes] = []
    for (node, group), reply in zip(groups.items(), replies, strict=True):
        if isinstance(reply, NodeUnavailableError | NodeReplyError):
            context.counters.cell.node_failures += 1
            if isinstance(reply, NodeUnavailableError):
                context.record_missed(node, group, in_outbox=in_outbox)
            unconfirmed += group
    return unconfirmed
