"""Waits until replicas or disks have a promise: a command whose effect must survive the loss of its server.

``WAIT`` or ``WAITAOF`` comes after the commands, over the same connection. The node answers it when enough
servers have confirmed everything that the connection has written, or when its time is over.

Source: https://valkey.io/commands/wait/, https://valkey.io/commands/waitaof/.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.effects import Command, Reply, ScriptCall, is_promise
from cachebackend.errors import RingCacheError, UnconfirmedError

__all__ = ["DiskWait", "PromiseWait", "ReplicaWait", "Wait"]

#: The share of the socket timeout that the replicas have, so that the reply of the node comes in time.
_SHARE = 0.5
#: Seconds between two calls that wait in full while replicas are late.
_FULL_WAIT_SECONDS = 1.0


class Wait(ABC):
    """A command that waits until servers have confirmed what a connection has written."""

    @abstractmethod
    def command(self) -> Command:
        """Return the command."""

    @abstractmethod
    def missing(self, reply: Reply) -> str:
        """Return which servers have not confirmed, from its reply; empty if all that must have done so."""


class PromiseWait:
    """Adds commands that wait to promises, and reads their replies.

    Args:
        waits: What each promise waits for.
    """

    def __init__(self, *waits: Wait) -> None:
        self._waits = waits

    def added(self, commands: Sequence[Command]) -> Sequence[Command]:
        """Return commands, with the commands that wait at the end if one of them is a promise.

        WAIT is for the last write of its own connection. So each promise makes one:

            1. primary  evicts a key, or deletes it for another connection; its replica does not know yet
            2. writer   deletes the key: there is nothing to delete, so its connection has nothing to wait for
            3. primary  dies; the replica, which has the key, is promoted
        """
        if not any(map(is_promise, commands)):
            return commands
        written = [command.writing if isinstance(command, ScriptCall) else command for command in commands]
        return [*written, *(wait.command() for wait in self._waits)]

    def settled(self, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Return the replies to commands, from the replies to what ``added`` has returned.

        The reply to a promise that the node has executed, but too few servers have confirmed, is an
        UnconfirmedError.
        """
        count = len(commands)
        if len(replies) == count:
            return replies
        unconfirmed = [
            (why, confirmed)
            for wait, confirmed in zip(self._waits, replies[count:], strict=True)
            if (why := str(confirmed) if isinstance(confirmed, RingCacheError) else wait.missing(confirmed))
        ]
        if not unconfirmed:
            return replies[:count]
        why, cause = unconfirmed[0]
        return [
            _unconfirmed(why, reply, cause)
            if is_promise(command) and not isinstance(reply, RingCacheError)
            else reply
            for command, reply in zip(commands, replies[:count], strict=True)
        ]


class ReplicaWait(Wait):
    """Waits until replicas have a promise in memory.

    While no replica confirms in time, the node is asked to wait for a millisecond only, so that an absent
    replica does not delay each call. One call a second waits in full: a replica that is back may need longer.

    Args:
        number: How many replicas must confirm.
        socket_timeout: The most seconds that a reply of the node may take.
        clock: The source of time.
    """

    def __init__(self, number: int, socket_timeout: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.number = number
        self._clock = clock
        self._wait = self._waiting(max(1, int(1000 * socket_timeout * _SHARE)))
        self._short_wait = self._waiting(1)
        self._is_late = False
        #: When the next call waits in full although the last replica was late.
        self._next_full_wait = 0.0

    def _waiting(self, milliseconds: int) -> Command:
        return b"WAIT", b"%d" % self.number, b"%d" % milliseconds

    def command(self) -> Command:
        """Return WAIT."""
        if self._is_late:
            now = self._clock.monotonic()
            if now < self._next_full_wait:
                return self._short_wait
            self._next_full_wait = now + _FULL_WAIT_SECONDS
        return self._wait

    def missing(self, reply: Reply) -> str:
        """Return how many replicas have confirmed, if these are too few."""
        was_late, self._is_late = self._is_late, reply < self.number
        if self._is_late and not was_late:
            self._next_full_wait = self._clock.monotonic() + _FULL_WAIT_SECONDS
        if not self._is_late:
            return ""
        return f"{reply} of {self.number} replicas have confirmed the command in time (wait_replicas)"


class DiskWait(Wait):
    """Waits until the node's own disk has a promise.

    It does not wait for the disks of replicas: a replica reports what is on its disk once a second only.

    Args:
        milliseconds: The most time that the disk has.
    """

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds

    def command(self) -> Command:
        """Return WAITAOF."""
        return b"WAITAOF", b"1", b"0", b"%d" % self._milliseconds

    def missing(self, reply: Reply) -> str:
        """Return that the disk has not confirmed, if so."""
        if reply[0] >= 1:
            return ""
        return f"the disk of the node has not confirmed the command within {self._milliseconds} ms"


def _unconfirmed(why: str, reply: Reply, cause: Reply) -> UnconfirmedError:
    error = UnconfirmedError(why)
    error.reply = reply
    error.__cause__ = cause if isinstance(cause, RingCacheError) else None
    return error
