"""Actors that call other methods of the cache for the key, and neither load nor write the row."""

from __future__ import annotations

from typing import Any

from cachebackend import protocol
from cachebackend.effects import Operation
from tests.interleavings.readers import Reader
from tests.interleavings.world import KEY

__all__ = ["OTHER", "Expirer", "Incrementer", "Mover"]

#: The key that a mover moves the value from.
OTHER = b"other"


class Caller(Reader):
    """Calls one operation, whose result is not a version of the row."""

    def finish(self, value: Any) -> None:
        self.remaining_reads -= 1
        self.operation = None
        self.history.append(("returned", value))


class Expirer(Caller):
    """Expires the value at once."""

    def start(self) -> Operation[bool]:
        return protocol.touch(self.process.context, KEY, 0)


class Incrementer(Caller):
    """Adds 0 to the version, so that the value is still a version of the row."""

    def start(self) -> Operation[int | None]:
        return protocol.incr(self.process.context, KEY, 0)


class Mover(Caller):
    """Moves the value of another key to the key, as ``incr_version`` does."""

    def start(self) -> Operation[bool]:
        return protocol.move(self.process.context, OTHER, KEY)
