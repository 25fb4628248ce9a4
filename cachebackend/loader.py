"""The block in which a caller's loader runs: what is read there goes into a value that is kept.

A loader reads past the copies in its process, and is not served stale values. A copy may be
older than an invalidation that the loaded value then outlives:

    1. writer    COMMIT; deletes the row's key, then the tag of the page
    2. reader    misses the page, takes the tag's new token, and reads the copy of the old row: the
                 node's invalidation message for the copy has not arrived yet
    3. reader    fills the page under the new token: stale until it expires

A stale value is older still, and its page would be served for a whole timeout after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["in_loader", "loader_block", "running"]

#: An item for each loader that runs in this process. While it is empty, a hit need not ask further.
running: list[None] = []
_in_loader: ContextVar[bool] = ContextVar("ringcache_in_loader", default=False)
#: Returns whether a loader calls this; tasks that it starts inherit that, threads do not.
in_loader = _in_loader.get


@contextmanager
def loader_block() -> Iterator[None]:
    """Return the block in which a loader is called, and in asyncio awaited."""
    running.append(None)
    token = _in_loader.set(True)
    try:
        yield
    finally:
        running.pop()
        _in_loader.reset(token)
