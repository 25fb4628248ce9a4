"""Commands of several keys, which a cluster takes only if all keys are in one slot: one command for each key.

They are sent together, in one round trip, and their replies become one reply again.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Command, Reply, ScriptCall
from cachebackend.errors import NodeUnavailableError, RingCacheError

__all__ = ["commands_by_key", "is_of_many_keys", "joined_reply", "key_of", "number_of_keys"]


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


#: Redis' own commands of several keys, and the command of one key.
_PLAIN = {b"DEL": b"DEL", b"EXISTS": b"EXISTS", b"MGET": b"GET"}
#: The types of replies to these commands, and to scripts, except for errors.
_NO_ERROR = frozenset({bytes, int, type(None)})
