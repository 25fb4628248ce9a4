"""Waits until replicas have a promise: a command whose effect must survive the promotion of a replica.

``WAIT`` comes after the commands, over the same connection. The node answers it when enough replicas have
confirmed everything that the connection has written, or when its time is over.

Source: https://valkey.io/commands/wait/.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Command, Reply, is_promise
from cachebackend.errors import NodeUnavailableError, RingCacheError

__all__ = ["ReplicaWait"]

#: The share of the socket timeout that the replicas have, so that the reply of the node comes in time.
_SHARE = 0.5


class ReplicaWait:
    """Adds ``WAIT`` to promises, and reads its reply.

    While no replica confirms in time, the node is asked to wait for a millisecond only, so that an absent
    replica does not delay each call.

    Args:
        number: How many replicas must confirm.
        socket_timeout: The most seconds that a reply of the node may take.
    """

    def __init__(self, number: int, socket_timeout: float) -> None:
        self.number = number
        self._wait = self._command(max(1, int(1000 * socket_timeout * _SHARE)))
        self._short_wait = self._command(1)
        self._is_late = False

    def _command(self, milliseconds: int) -> Command:
        return b"WAIT", b"%d" % self.number, b"%d" % milliseconds

    def added(self, commands: Sequence[Command]) -> Sequence[Command]:
        """Return commands, with ``WAIT`` at the end if one of them is a promise."""
        if not any(map(is_promise, commands)):
            return commands
        return [*commands, self._short_wait if self._is_late else self._wait]

    def settled(self, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Return the replies to commands, from the replies to what ``added`` has returned.

        The reply to a promise that too few replicas have confirmed is a NodeUnavailableError.
        """
        if len(replies) == len(commands):
            return replies
        confirmed = replies.pop()
        if isinstance(confirmed, RingCacheError):  # the node itself has failed, or does not know the command
            return [self._of_promise(*each, confirmed) for each in zip(commands, replies, strict=True)]
        self._is_late = confirmed < self.number
        if not self._is_late:
            return replies
        failure = NodeUnavailableError(
            f"{confirmed} of {self.number} replicas have confirmed the command in time (wait_replicas)"
        )
        failure.ejects, failure.was_sent = False, True
        return [self._of_promise(*each, failure) for each in zip(commands, replies, strict=True)]

    @staticmethod
    def _of_promise(command: Command, reply: Reply, failure: RingCacheError) -> Reply:
        """Return the reply to a command: the failure, if it is a promise that the node has kept."""
        return failure if is_promise(command) and not isinstance(reply, RingCacheError) else reply
