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

import os
from asyncio import _get_running_loop
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import ref

from cachebackend.blocked_threads import LeaseHolder, Wait, kept

__all__ = ["held_tokens", "in_loader", "loader_block", "may_keep_waiting", "may_wait", "running"]


class _Block(LeaseHolder):
    """A block in which a loader runs. Only the frame of ``loader_block`` keeps it.

    If a signal handler raises while a block begins or ends, the rest of ``loader_block`` does not run.
    Then the block ends with the frame: a reference to it has no effect any more.
    """

    __slots__ = ()


#: The blocks of this process. While there is none, a hit need not ask further.
running: set[ref[_Block]] = set()
#: The innermost block around the caller; None: no loader calls it.
_block: ContextVar[ref[_Block] | None] = ContextVar("ringcache_loader", default=None)


def in_loader() -> bool:
    """Return whether a loader calls this; tasks that it starts inherit that, threads do not."""
    block = _block.get()
    return block is not None and block() is not None


def held_tokens() -> tuple[bytes, ...]:
    """Return the tokens of the leases under which the loaders that call this run.

    A loader that reads the key that it loads would wait for its own lease.
    """
    reference = _block.get()
    block = reference and reference()
    return block.tokens if block else ()


def may_keep_waiting() -> bool:
    """Return whether to ask ``may_wait`` before the caller waits."""
    return bool(running or kept) or _get_running_loop() is not None


def may_wait(wait: Wait, records: Iterable[bytes], *, is_task: bool) -> bool:
    """Return whether the caller may wait for leases; False: their loaders may wait for the caller.

    A loader around the caller does not count: the thread works for it.

    Args:
        wait: The wait.
        records: The records of the leases.
        is_task: Whether other tasks of the event loop run while the caller waits.
    """
    return wait.is_allowed(_holders(records), is_task=is_task)


def _holders(records: Iterable[bytes]) -> Iterator[LeaseHolder]:
    """Yield the loaders of this process that are not around the caller, and what keeps some leases."""
    around = set(held_tokens())
    for reference in running.copy():
        block = reference()
        if block is not None and not around.issuperset(block.tokens):
            yield block
    for record in records:
        if (holder := kept.get(record)) is not None:
            yield holder


@contextmanager
def loader_block(tokens: tuple[bytes, ...] = ()) -> Iterator[None]:
    """Return the block in which a loader is called, and in asyncio awaited.

    Args:
        tokens: The tokens of the leases under which it loads.
    """
    block = _Block(held_tokens() + tokens)
    before, reference = _block.get(), ref(block, running.discard)
    try:
        running.add(reference)
        _block.set(reference)
        yield
    finally:
        running.discard(reference)
        _block.set(before)


def _after_fork() -> None:
    """Forget the loaders of other threads, in a forked child, which does not have these threads.

    Their frames are never removed there. Else the child would count them as running, forever.
    """
    own = _block.get()
    running.intersection_update(() if own is None else (own,))


os.register_at_fork(after_in_child=_after_fork)
