"""What nodes that did not answer were not told: keys that must not be read there when they are back."""

from __future__ import annotations

import threading
from collections.abc import Iterable

__all__ = ["MissedDeletes"]


class MissedDeletes:
    """The deletes that nodes missed, for one alias in one process.

    Args:
        limit: The most keys kept for a node. One that missed more is cleared of all its keys.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._keys: dict[int, set[bytes]] = {}
        self._everything: set[int] = set()

    def add(self, node: int, keys: Iterable[bytes]) -> list[bytes]:
        """Note keys that a node should have deleted; return those that were not noted yet."""
        with self._lock:
            if node in self._everything:
                return []
            noted = self._keys.setdefault(node, set())
            new = [key for key in keys if key not in noted]
            noted.update(new)
            if len(noted) > self._limit:
                self._everything.add(node)
                noted.clear()
            return new

    def add_everything(self, node: int) -> None:
        """Note that a node should have deleted every key."""
        with self._lock:
            self._everything.add(node)
            self._keys.pop(node, None)

    def take(self, node: int) -> tuple[bool, list[bytes]]:
        """Return whether all keys of a node are wrong, or else which, and forget them."""
        with self._lock:
            everything = node in self._everything
            self._everything.discard(node)
            return everything, list(self._keys.pop(node, ()))

    def count(self, node: int) -> int | None:
        """Return how many deletes a node missed; None: all keys of it are wrong."""
        with self._lock:
            return None if node in self._everything else len(self._keys.get(node, ()))

    def after_fork(self) -> None:
        """Take a new lock, in a forked child: another thread may have held the old one."""
        self._lock = threading.Lock()
