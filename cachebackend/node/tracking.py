"""The tracking connection of a node: it receives the invalidation messages for the near cache.

A daemon thread sends ``CLIENT TRACKING ON BCAST`` and reads the messages.

Source: https://valkey.io/topics/client-side-caching/, section "Broadcasting mode".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from cachebackend.effects import Command
from cachebackend.errors import RingCacheError
from cachebackend.node.blocking import Connection
from cachebackend.node.handshake import Handshake
from cachebackend.node.translate import CONNECTION_ERRORS, MalformedReplyError
from cachebackend.threads import start_thread

__all__ = ["Tracking"]

logger = logging.getLogger("cachebackend")
_HELLO: Command = (b"HELLO", b"3")
_TRACKING: Command = (b"CLIENT", b"TRACKING", b"ON", b"BCAST")
_PING: Command = (b"PING",)
#: After this many seconds without a message the node is sent a PING. After as many without a reply the
#: connection counts as lost.
QUIET_SECONDS = 1.0
#: Seconds between two attempts to connect.
RETRY_SECONDS = 1.0


class Tracking:
    """The tracking connection of one node, and the thread that reads it and connects again.

    Args:
        handshake: Makes connections to the node.
        on_change: Called with the keys of an invalidation message; None: all keys of the node.
        on_up: Called when the tracking connection is open.
        on_down: Called when the tracking connection is lost or closed, and after each attempt that failed.
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
        self._thread: threading.Thread | None = None
        #: Held while ``on_up`` and ``on_down`` run, so that no thread calls them after it lost its permit.
        self._lock = threading.Lock()
        #: The thread that shall run has this object. Another thread ends as soon as it notices.
        self._permit: object | None = None

    def start(self) -> None:
        """Start the thread, unless it runs.

        If a signal handler raises here, a second call ends with one thread, whether the first one has
        started it or not.
        """
        if self._permit is None or self._thread is None or not self._thread.is_alive():
            self._permit = permit = object()
            self._thread = threading.Thread(
                target=self._run, args=(permit,), name="ringcache-tracking", daemon=True
            )
            start_thread(self._thread)

    def close(self) -> None:
        """Request that the thread closes the connection and ends; return at once."""
        with self._lock:
            self._permit = None
            self._on_down()

    def _call(self, function: Callable[[], None], permit: object) -> None:
        with self._lock:
            if self._permit is permit:
                function()

    def _run(self, permit: object) -> None:
        while self._permit is permit:
            connection: Connection | None = None
            try:
                connection = Connection(self._handshake, QUIET_SECONDS)
                self._listen(connection, permit)
            except (*CONNECTION_ERRORS, RingCacheError):
                pass
            except Exception:
                # Without this thread the process would never have a near cache again
                logger.exception("the tracking connection failed and is opened again")
            finally:
                self._call(self._on_down, permit)
                if connection is not None:
                    connection.close()
            if self._permit is permit:
                time.sleep(RETRY_SECONDS)

    def _listen(self, connection: Connection, permit: object) -> None:
        """Read messages until the connection fails.

        Raises:
            OSError: The connection failed.
            RingCacheError: The node does not support tracking.
        """
        connection.send([_HELLO, _TRACKING])
        for _ in range(2):
            if isinstance(reply := self._read(connection), Exception):
                raise reply
        self._call(self._on_up, permit)
        is_pinged = False
        while self._permit is permit:
            try:
                self._read(connection)
                is_pinged = False
            except TimeoutError:
                if is_pinged:
                    raise
                connection.send([_PING])
                is_pinged = True

    def _read(self, connection: Connection) -> Any:
        """Return the next reply or invalidation message; pass an invalidation message on to ``on_change``.

        Raises:
            MalformedReplyError: The message names no keys.
        """
        reply = connection.read(_PING)
        if isinstance(reply, list) and reply and reply[0] == b"invalidate":
            keys = reply[1] if len(reply) == 2 else ()
            if keys is not None and not (isinstance(keys, list) and all(type(key) is bytes for key in keys)):
                message = "an invalidation message has no list of keys"
                raise MalformedReplyError(message)
            self._on_change(keys)
        return reply
