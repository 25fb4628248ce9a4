"""A node tells what changes: one connection in a daemon thread, by ``CLIENT TRACKING … BCAST``.

Source: https://valkey.io/topics/client-side-caching/, section "Broadcasting mode".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from cachebackend.errors import RingCacheError
from cachebackend.node.blocking import Connection
from cachebackend.node.handshake import Handshake
from cachebackend.node.translate import CONNECTION_ERRORS

__all__ = ["Tracking"]

#: A node that says nothing for so long is asked for a sign of life, and given up after as long again.
QUIET_SECONDS = 1.0
#: Seconds between two tries to connect.
AGAIN_SECONDS = 1.0


class Tracking:
    """The tracking connection of one node, kept up by a thread of its own.

    Args:
        handshake: How to connect.
        on_change: Called with the keys that changed; None: all of the node's did.
        on_up: Called when the node begins to tell.
        on_down: Called when it tells nothing any more.
    """

    def __init__(
        self,
        handshake: Handshake,
        on_change: Callable[[Sequence[bytes] | None], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._handshake = handshake
        self._on_change, self._on_up, self._on_down = on_change, on_up, on_down
        self._ended = threading.Event()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="ringcache-tracking", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._listen()
            except (*CONNECTION_ERRORS, RingCacheError):
                pass
            finally:
                self._on_down()
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            self._ended.wait(AGAIN_SECONDS)

    def _listen(self) -> None:
        """Listen until the connection fails.

        Raises:
            OSError, redis.RedisError: It failed.
            RingCacheError: The node does not track.
        """
        self._connection = connection = Connection(self._handshake, QUIET_SECONDS)
        connection.send([(b"HELLO", 3), (b"CLIENT", b"TRACKING", b"ON", b"BCAST")])
        for _ in range(2):
            if isinstance(reply := self._next(connection), Exception):
                raise reply
        self._on_up()
        is_asked = False
        while not self._ended.is_set():
            try:
                self._next(connection)
                is_asked = False
            except (BlockingIOError, TimeoutError):
                if is_asked:
                    raise
                connection.send([(b"PING",)])
                is_asked = True

    def _next(self, connection: Connection) -> Any:
        """Return the next reply; what the node pushes meanwhile is passed on, and ends the wait too."""
        reply = connection.read()
        if isinstance(reply, list) and reply and reply[0] == b"invalidate":
            self._on_change(reply[1])
        return reply
