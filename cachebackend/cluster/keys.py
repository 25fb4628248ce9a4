"""Commands of several keys, which a cluster takes only if all keys are in one slot: one command for each key.

They are sent together, in one round trip, and their replies become one reply again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cachebackend.drivers import Pending
from cachebackend.effects import Command, Reply, ScriptCall
from cachebackend.errors import NodeUnavailableError, RingCacheError

__all__ = [
    "DividedReplies",
    "commands_by_key",
    "divided",
    "is_of_many_keys",
    "joined",
    "joined_reply",
    "key_of",
    "number_of_keys",
]


def is_of_many_keys(command: Command) -> bool:
    """Return whether a command has several keys that may be in different slots."""
    if command[0] in _PLAIN:
        return len(command) > 2
    return command.__class__ is ScriptCall and command.script.is_for_each_key and command[2] != b"1"


def key_of(command: Command) -> bytes:
    """Return the key of a command that has one key."""
    return bytes(command[3 if command.__class__ is ScriptCall else 1])  # type: ignore[arg-type]  # keys are bytes


def number_of_keys(command: Command) -> int:
    """Return how many keys a command of several keys has."""
    return len(command.keys) if isinstance(command, ScriptCall) else len(command) - 1


def commands_by_key(command: Command) -> list[Command]:
    """Return the commands that do for each key alone what a command does for several keys."""
    name = command[0]
    if name in _PLAIN:
        return [(_PLAIN[name], key) for key in command[1:]]
    assert isinstance(command, ScriptCall)  # noqa: S101  # the caller has asked ``is_of_many_keys``
    return [command.with_keys(key) for key in command.keys]


def joined_reply(command: Command, replies: Sequence[Reply]) -> Reply:
    """Return the reply to a command of several keys.

    Args:
        command: The command.
        replies: The replies to ``commands_by_key``.

    Returns:
        If one of them is an error, it is the reply. The error of a server that did not answer comes first.
    """
    errors: list[RingCacheError] = []
    if not _NO_ERROR.issuperset(map(type, replies)):
        errors = [reply for reply in replies if isinstance(reply, RingCacheError)]
    if errors:
        return next((error for error in errors if isinstance(error, NodeUnavailableError)), errors[0])
    return list(replies) if command[0] == b"MGET" else sum(replies)


class DividedReplies:
    """The replies to commands that were sent to a shard, some of which a cluster takes for one key only."""

    __slots__ = ("_commands", "_follow", "_pending", "_plain")

    def __init__(
        self,
        follow: Callable[[Sequence[Command], list[Reply]], list[Reply]],
        commands: Sequence[Command],
        plain: Sequence[Command],
        pending: Pending,
    ) -> None:
        self._follow, self._commands, self._plain, self._pending = follow, commands, plain, pending

    def receive(self) -> list[Reply]:
        """Return the reply to each command; a reply that did not come is a NodeUnavailableError."""
        replies = self._follow(self._plain, self._pending.receive())
        return replies if self._plain is self._commands else joined(self._commands, replies)

    def abandon(self) -> None:
        """Give up the replies: they will not be read."""
        self._pending.abandon()


def divided(commands: Sequence[Command]) -> Sequence[Command]:
    """Return commands of one key each that do the same; the commands themselves if they are."""
    if not any(map(is_of_many_keys, commands)):
        return commands
    return [part for command in commands for part in _parts(command)]


def _parts(command: Command) -> Sequence[Command]:
    return commands_by_key(command) if is_of_many_keys(command) else [command]


def joined(commands: Sequence[Command], replies: Sequence[Reply]) -> list[Reply]:
    """Return the reply to each command, from the replies to ``divided``."""
    if len(commands) == len(replies):
        return list(replies)
    whole, done = [], 0
    for command in commands:
        number = number_of_keys(command) if is_of_many_keys(command) else 1
        parts = replies[done : done + number]
        whole.append(joined_reply(command, parts) if number > 1 else parts[0])
        done += number
    return whole


#: Redis' own commands of several keys, and the command of one key.
_PLAIN = {b"DEL": b"DEL", b"EXISTS": b"EXISTS", b"MGET": b"GET"}
#: The types of replies to these commands, and to scripts, except for errors.
_NO_ERROR = frozenset({bytes, int, type(None)})
