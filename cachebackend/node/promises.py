"""Waits until replicas or disks have a promise: a command whose effect must survive the loss of its server.

``WAIT`` or ``WAITAOF`` comes after the commands, over the same connection. The node answers it when enough
servers have confirmed everything that the connection has written, or when its time is over.

Source: https://valkey.io/commands/wait/, https://valkey.io/commands/waitaof/.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.effects import Command, Reply, is_promise
from cachebackend.errors import RingCacheError, UnconfirmedError

__all__ = ["DiskWait", "PromiseWait", "ReplicaWait"]

#: The share of the socket timeout that the replicas have, so that the reply of the node comes in time.
_SHARE = 0.5
#: Seconds between two calls that wait in full while replicas are late.
_FULL_WAIT_SECONDS = 1.0


class PromiseWait(ABC):
    """Adds a command that waits to promises, and reads its reply."""

    def added(self, commands: Sequence[Command]) -> Sequence[Command]:
        """Return commands, with the command that waits at the end if one of them is a promise."""
        if not any(map(is_promise, commands)):
            return commands
        return [*commands, self._command()]

    def settled(self, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Return the replies to commands, from the replies to what ``added`` has returned.

        The reply to a promise that the node has executed, but too few servers have confirmed, is an
        UnconfirmedError.
        """
        if len(replies) == len(commands):
            return replies
        confirmed = replies.pop()
        is_error = isinstance(confirmed, RingCacheError)
        why = str(confirmed) if is_error else self._missing(confirmed)
        if not why:
            return replies
        return [
            _unconfirmed(why, reply, confirmed if is_error else None)
            if is_promise(command) and not isinstance(reply, RingCacheError)
            else reply
            for command, reply in zip(commands, replies, strict=True)
        ]

    @abstractmethod
    def _command(self) -> Command:
        """Return the command that waits."""

    @abstractmethod
    def _missing(self, reply: Reply) -> str:
        """Return which servers have not confirmed the promise; empty if all that must have done so."""


class ReplicaWait(PromiseWait):
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

    def _command(self) -> Command:
        if self._is_late:
            now = self._clock.monotonic()
            if now < self._next_full_wait:
                return self._short_wait
            self._next_full_wait = now + _FULL_WAIT_SECONDS
        return self._wait

    def _missing(self, reply: Reply) -> str:
        was_late, self._is_late = self._is_late, reply < self.number
        if self._is_late and not was_late:
            self._next_full_wait = self._clock.monotonic() + _FULL_WAIT_SECONDS
        return _missing_replicas(reply, self.number) if self._is_late else ""


class DiskWait(PromiseWait):
    """Waits until the node's disk has a promise, and the disks of replicas.

    Args:
        replicas: How many replicas must confirm.
        milliseconds: The most time that all of them have.
    """

    def __init__(self, replicas: int, milliseconds: int) -> None:
        self._replicas, self._milliseconds = replicas, milliseconds

    def _command(self) -> Command:
        return b"WAITAOF", b"1", b"%d" % self._replicas, b"%d" % self._milliseconds

    def _missing(self, reply: Reply) -> str:
        on_disk, replicas = reply
        if on_disk < 1:
            return f"the disk of the node has not confirmed the command within {self._milliseconds} ms"
        return _missing_replicas(replicas, self._replicas) if replicas < self._replicas else ""


def _unconfirmed(why: str, reply: Reply, cause: RingCacheError | None) -> UnconfirmedError:
    error = UnconfirmedError(why)
    error.reply, error.__cause__ = reply, cause
    return error


def _missing_replicas(confirmed: int, number: int) -> str:
    return f"{confirmed} of {number} replicas have confirmed the command in time (wait_replicas)"
