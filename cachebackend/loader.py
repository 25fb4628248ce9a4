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

from asyncio import _get_running_loop
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Thread, current_thread
from typing import Any
from weakref import ref

from asgiref.sync import AsyncToSync, SyncToAsync

from cachebackend.interrupts import raise_interrupt

__all__ = ["held_tokens", "in_loader", "keeps_loader_waiting", "loader_block", "running"]


class _Block:
    """A block in which a loader runs. Only the frame of ``loader_block`` keeps it.

    If a signal handler raises while a block begins or ends, the rest of ``loader_block`` does not run.
    Then the block ends with the frame: a reference to it has no effect any more.

    Attributes:
        tokens: The tokens of the leases under which the loaders around it, and its own, run.
        home: Says in which thread blocking code of the loader's task runs; None: it is in no task.
    """

    __slots__ = ("__weakref__", "home", "tokens")

    def __init__(self, tokens: tuple[bytes, ...]) -> None:
        self.tokens = tokens
        loop = _get_running_loop()
        self.home = None if loop is None else (_parent(), _context(), loop)

    def runs_blocking_code_in(self, threads: Collection[Thread]) -> bool:
        """Return whether ``sync_to_async`` runs blocking code of the loader's task in one of some threads."""
        if self.home is None:
            return False
        executor, context, loop = self.home
        if executor is not None:  # a thread that waits in ``async_to_sync``
            return executor._work_thread in threads
        if context is not None:  # the thread of a request; it may not have begun
            executor = SyncToAsync.context_to_thread_executor.get(context)
        else:  # one thread for the tasks of all loops, unless ``async_to_sync`` has made the loop
            executor = AsyncToSync.loop_thread_executors.get(loop)
            if executor is not None:
                return executor._work_thread in threads
            executor = SyncToAsync.single_thread_executor
        return not getattr(executor, "_threads", set()).isdisjoint(threads)


def _context() -> Any:
    """Return what represents the request of this task; None: it has no thread of its own."""
    return SyncToAsync.thread_sensitive_context.get(None)


def _parent() -> Any:
    """Return what runs blocking code of this task in a thread that waits for it; None: no thread does."""
    return getattr(getattr(AsyncToSync, "executors", None), "current", None)


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


def keeps_loader_waiting() -> bool:
    """Return whether a loader of a task may wait for the thread of the caller, which must not wait then.

    ``sync_to_async`` runs the blocking code of a request, or of all tasks of a process, in one thread:

        1. task      aget: takes the lease of a row; the thread is to load it
        2. thread    reads a list that has the row: would wait for the lease, and the loader for the thread

    The lease that the caller meets may be another one, whose loader waits for the thread of another request.
    A loader around the caller does not count: the thread works for it.
    """
    if not running:
        return False
    around, blocks = set(held_tokens()), [reference() for reference in tuple(running)]
    others = [block for block in blocks if block is not None and not around.issuperset(block.tokens)]
    try:
        threads = set(_waiting_threads())
        return any(block.runs_blocking_code_in(threads) for block in others)
    except AttributeError as error:  # another release of asgiref has its threads elsewhere
        raise_interrupt(error)
        return False


def _waiting_threads() -> Iterator[Thread]:
    """Yield the threads that wait if the caller does: its own, and those around it in ``async_to_sync``."""
    if _get_running_loop() is None:
        yield current_thread()
    executor = _parent()
    while executor is not None:
        yield executor._work_thread
        executor = getattr(executor, "_old_executor", None)


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
