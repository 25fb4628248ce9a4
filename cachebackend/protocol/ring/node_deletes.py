"""Deletes at named nodes: the command, and what happens when a node does not confirm it.

A delete removes any record of a key except a quarantine, which only its writer ends (see
``protocol.cache.quarantine``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cachebackend.effects import Operation, Script, ScriptCall, Send
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.context import Context
from cachebackend.replies import integer

__all__ = ["confirm_command", "delete_at", "delete_command", "release_command"]

_DELETE_WRITING = Script(__package__, "delete", "write", reply=integer, is_for_each_key=True, is_promise=True)
_DELETE = Script(
    __package__, "delete", reply=integer, is_for_each_key=True, is_promise=True, writing=_DELETE_WRITING
)
_CONFIRM = Script(__package__, "delete", "write", reply=integer, is_promise=True, is_for_asked=True)
_RELEASE = Script(__package__, "release", reply=integer)


def delete_command(keys: Sequence[bytes]) -> ScriptCall:
    """Return the command that deletes keys of one node; its reply is the number of keys deleted."""
    return _DELETE.call(keys)


def confirm_command(key: bytes) -> ScriptCall:
    """Return the command that deletes a key which a node does not have, so that its replicas must confirm."""
    return _CONFIRM.call([key])


def release_command(key: bytes, record: bytes) -> ScriptCall:
    """Return the command that deletes a key if it holds this record; its reply is 1 if it did."""
    return _RELEASE.call([key], record)


def delete_at(
    context: Context, groups: Mapping[int, Sequence[bytes]], *, in_outbox: bool
) -> Operation[list[bytes]]:
    """Delete keys at nodes; return the keys that a node did not confirm, and record that it missed them.

    Args:
        context: The alias.
        groups: The keys for each node.
        in_outbox: Whether an outbox keeps the keys until they are confirmed.
    """
    if not groups:
        return []
    replies = yield Send([(node, delete_command(keys)) for node, keys in groups.items()])
    unconfirmed: list[bytes] = []
    for (node, keys), reply in zip(groups.items(), replies, strict=True):
        if isinstance(reply, NodeUnavailableError | NodeReplyError):
            context.record_missed(node, keys, in_outbox=in_outbox)
            unconfirmed += keys
    return unconfirmed
