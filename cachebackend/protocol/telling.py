"""Deletes at nodes that are not, or not only, a key's owner; what they do not confirm is noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cachebackend.effects import Operation, Send
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.context import Context
from cachebackend.protocol.dropping import drop

__all__ = ["tell"]


def tell(context: Context, groups: Mapping[int, Sequence[bytes]], *, is_owed: bool) -> Operation[list[bytes]]:
    """Delete keys at nodes; return those that their node did not confirm, and note it missed them.

    Args:
        context: The alias.
        groups: The keys for each node.
        is_owed: Whether an outbox has them until they are confirmed.
    """
    if not groups:
        return []
    replies = yield Send([(node, drop(group)) for node, group in groups.items()])
    left: list[bytes] = []
    for (node, group), reply in zip(groups.items(), replies, strict=True):
        if isinstance(reply, NodeUnavailableError | NodeReplyError):
            context.note_missed(node, group, is_kept=is_owed)
            left += group
    return left
