"""Redirections: a server of a cluster answers that another one has the slot of a key.

A key is at one server at any time. While a slot moves from A to B, a command for a key goes this way:

    1. reader  asks A. If A has the key, A executes the command.
    2. A       if not: ``ASK``. The key is at B, or nowhere, and A creates no key of this slot any more.
    3. reader  sends ``ASKING`` and the command to B, which executes it.
    4. mover   ``MIGRATE``: A is blocked until B has stored the key with its TTL, and removes it.
    5. mover   gives the slot to B. From now on A answers ``MOVED``, and so does B if it was given back to A.

So a lease (``SET … NX GET``) is granted at A before 4, or at B, and never at both. A delete or a fill
(``IFEQ``, a script) finds the lease where it is: before 4 at A; after 4 A answers ``ASK``. Commands of many
keys could find some at A and some at B, so they are sent for each key alone (``keys``).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.topology import UNNAMED
from cachebackend.effects import Command, Reply, ScriptCall
from cachebackend.errors import NodeReplyError, NodeUnavailableError, RedirectedError
from cachebackend.node import Node
from cachebackend.threads import call_in_thread

__all__ = ["follow", "follow_async"]

#: The most servers to which one command is redirected.
MAX_REDIRECTIONS = 5
_ASKING: Command = (b"ASKING",)
#: The positions of redirected commands, by shard, and whether the slot is still being moved to it.
_Groups: TypeAlias = dict[tuple[ShardNode, bool], list[int]]


class Table(Protocol):
    """The part of a cluster that following redirections needs."""

    @property
    def shards(self) -> Mapping[int, ShardNode]:
        """The shards by their index."""
        ...

    def target(self, asked: ShardNode, redirection: RedirectedError) -> int | None:
        """Return the index of the shard whose primary a redirection names; None: it is not known."""
        ...

    def add_target(self, asked: ShardNode, redirection: RedirectedError) -> int | None:
        """Return the index of a new shard for a server that owns no slot yet; None: it is a replica."""
        ...

    def note_asked(self, commands: Sequence[Command]) -> None:
        """Handle commands that are sent to a server which does not own their slots yet."""
        ...

    def note_moved(self, slot: int, index: int) -> None:
        """Use the new owner of a slot."""
        ...

    def look_for(self, servers: Collection[Hashable]) -> None:
        """Read the topology to find servers that it lacks, by a name for each of them."""
        ...


def follow(
    table: Table,
    asked: ShardNode,
    commands: Sequence[Command],
    replies: list[Reply],
    servers: list[ShardNode] | None = None,
) -> list[Reply]:
    """Return the replies to commands, with those that were redirected sent where they belong.

    Args:
        table: The cluster.
        asked: The shard that was asked.
        commands: The commands.
        replies: Its replies.
        servers: An empty list that gets the shard which each reply comes from; None: nobody needs it.
    """
    servers = [] if servers is None else servers
    servers += [asked] * len(replies)
    for _ in range(MAX_REDIRECTIONS):
        if RedirectedError not in map(type, replies):
            return replies
        if unknown := _unknown(table, servers, replies):
            table.look_for(unknown)
        for (node, is_ask), positions in _groups(table, commands, servers, replies).items():
            batch = _batch(table, commands, positions, is_ask=is_ask)
            _put(replies, positions, Node.send(node, batch).receive(), is_ask=is_ask)
    return _given_up(replies)


async def follow_async(
    table: Table, asked: ShardNode, commands: Sequence[Command], replies: list[Reply]
) -> list[Reply]:
    """Return what ``follow`` returns, in the running event loop."""
    servers = [asked] * len(replies)
    for _ in range(MAX_REDIRECTIONS):
        if RedirectedError not in map(type, replies):
            return replies
        if unknown := _unknown(table, servers, replies):
            await call_in_thread(partial(table.look_for, unknown))
        for (node, is_ask), positions in _groups(table, commands, servers, replies).items():
            batch = _batch(table, commands, positions, is_ask=is_ask)
            _put(replies, positions, await Node.submit(node, batch), is_ask=is_ask)
    return _given_up(replies)


def _unknown(table: Table, servers: Sequence[ShardNode], replies: Sequence[Reply]) -> set[Hashable]:
    """Return a name for each server that a redirection names, and that the table does not have.

    ``MOVED`` is news after ``ASK``: meanwhile the server has got the slot, and the topology has it.
    """
    return {
        (server.name, reply.host, reply.port, reply.slot if reply.host == UNNAMED else 0, reply.is_moved)
        for server, reply in zip(servers, replies, strict=True)
        if isinstance(reply, RedirectedError) and table.target(server, reply) is None
    }


def _groups(
    table: Table, commands: Sequence[Command], servers: list[ShardNode], replies: list[Reply]
) -> _Groups:
    """Return where to send redirected commands; the reply to one that has no target becomes an error.

    So does that to a command which is for the server that was asked.

    Args:
        table: The cluster.
        commands: The commands.
        servers: The shard that has answered each command; set to the one that it is sent to now.
        replies: The replies.
    """
    groups: _Groups = {}
    for position, reply in enumerate(replies):
        if not isinstance(reply, RedirectedError):
            continue
        index = table.target(servers[position], reply)
        if index is None and not reply.is_moved:
            index = table.add_target(servers[position], reply)
        if index is None:
            replies[position] = _failure("redirected a command to a server that its table does not have")
            continue
        if reply.is_moved:
            table.note_moved(reply.slot, index)
        command = commands[position]
        if isinstance(command, ScriptCall) and command.script.is_for_asked:
            replies[position] = _failure("redirected a command that is for the server which was asked")
            continue
        servers[position] = table.shards[index]
        groups.setdefault((servers[position], not reply.is_moved), []).append(position)
    return groups


def _batch(
    table: Table, commands: Sequence[Command], positions: Sequence[int], *, is_ask: bool
) -> list[Command]:
    """Return the commands at some positions; each comes after ASKING if its slot is being moved."""
    redirected = [commands[position] for position in positions]
    if not is_ask:
        return redirected
    table.note_asked(redirected)
    return [each for command in redirected for each in (_ASKING, command)]


def _put(replies: list[Reply], positions: Sequence[int], new: Sequence[Reply], *, is_ask: bool) -> None:
    is_refused = is_ask and isinstance(new[0], NodeReplyError)  # the user lacks the right to run ASKING
    for position, reply in zip(positions, new[1::2] if is_ask else new, strict=True):
        if isinstance(reply, NodeUnavailableError):
            reply.is_elsewhere = True
        replies[position] = reply
        if is_refused and isinstance(reply, RedirectedError):
            text = f"is moving the slot of the key, and its new server refuses ASKING: {new[0]}"
            replies[position] = _failure(text)


def _given_up(replies: list[Reply]) -> list[Reply]:
    """Replace redirections by an error: servers that disagree have redirected a command too often."""
    failure = _failure(f"redirected a command {MAX_REDIRECTIONS} times")
    return [failure if isinstance(reply, RedirectedError) else reply for reply in replies]


def _failure(text: str) -> NodeUnavailableError:
    error = NodeUnavailableError(f"the cluster {text}")
    error.ejects = False
    return error
