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

__all__ = ["held_tokens", "in_loader", "loader_block", "running"]

#: An item for each loader that runs in this process. While it is empty, a hit need not ask further.
running: list[None] = []
#: The tokens of the leases under which the loaders around the caller run; None: no loader calls it.
_tokens: ContextVar[tuple[bytes, ...] | None] = ContextVar("ringcache_loader", default=None)


def in_loader() -> bool:
    """Return whether a loader calls this; tasks that it starts inherit that, threads do not."""
    return _tokens.get() is not None


def held_tokens() -> tuple[bytes, ...]:
    """Return the tokens of the leases under which the loaders that call this run.

    A loader that reads the key that it loads would wait for its own lease.
    """
    return _tokens.get() or ()


@contextmanager
def loader_block(tokens: tuple[bytes, ...] = ()) -> Iterator[None]:
    """Return the block in which a loader is called, and in asyncio awaited.

    Args:
        tokens: The tokens of the leases under which it loads.
    """
    running.append(None)
    before = _tokens.set(held_tokens() + tokens)
    try:
        yield
    finally:
        running.pop()
        _tokens.reset(before)
