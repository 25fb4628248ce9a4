"""The threads that a wait for a lease blocks, and the loaders that need one of them.

``sync_to_async`` runs the blocking code of a request, or of all tasks of a process, in one thread:

    1. task      aget: takes the lease of a row; the thread is to load it
    2. thread    reads a list that has the row: would wait for the lease, and the loader for the thread

So the caller of 2 does not wait: it loads, too, and stores nothing. The lease that it meets may be another
one, whose loader waits for a loader that needs the thread. So it is asked of every loader of the process.

A thread that waits in ``async_to_sync`` runs what the tasks of that call give it meanwhile. Only what is
given to it in another way has to wait.

A loader may also give work to a pool of threads, by ``asyncio.to_thread`` or in another way. Then it waits if
all threads of that pool wait for leases.

Blocking code in the thread of an event loop never waits: no task of the loop could continue.
"""

from __future__ import annotations

import os
from asyncio import _get_running_loop
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import thread as pools
from contextlib import nullcontext
from contextvars import ContextVar
from threading import Thread, current_thread
from typing import Any, TypeAlias
from weakref import WeakValueDictionary, ref

from asgiref.sync import AsyncToSync, SyncToAsync

from cachebackend.interrupts import raise_interrupt

__all__ = ["LeaseHolder", "Wait", "is_thread_of_tasks", "kept"]

#: The threads that a wait blocks. The value gives a thread the work that it does meanwhile; None: nothing.
_Blocked: TypeAlias = Mapping[Thread, Any]


class LeaseHolder:
    """Code that holds a lease, and the threads that it may give work to.

    Args:
        tokens: The tokens of its leases, and of the leases of the loaders around it.
    """

    __slots__ = ("__weakref__", "_context", "_is_task", "_loop", "_parent", "tokens")

    def __init__(self, tokens: tuple[bytes, ...] = ()) -> None:
        self.tokens = tokens
        loop = _get_running_loop()
        self._is_task = loop is not None
        self._loop = loop if self._is_task else getattr(SyncToAsync.threadlocal, "main_event_loop", None)
        self._parent = _parent()
        context = SyncToAsync.thread_sensitive_context.get(None)
        #: Weakly: what is kept for a request must not keep it.
        self._context = None if context is None else ref(context)

    def may_wait_for(self, blocked: _Blocked) -> bool:
        """Return whether it may wait for work that only the blocked threads could do.

        Blocking code rarely gives work to another thread: a loader that calls ``asyncio.run`` may. The work
        that waits for that thread shows whether it has done so.

        If a thread of the loop's pool waits in ``async_to_sync``, nothing shows which thread waits for it. It
        may be the one that work of the holder waits for.
        """
        executor = self._executor()
        thread = getattr(executor, "_work_thread", None)
        if thread is not None:  # it waits in ``async_to_sync``
            is_blocked = thread in blocked and blocked[thread] is not executor
        else:
            is_blocked = not getattr(executor, "_threads", set()).isdisjoint(blocked)
        if is_blocked and (self._is_task or _has_work(executor)):
            return True
        threads = frozenset(_pool_threads(self._loop))
        return _has_work(executor) and any(blocked[thread] is not None for thread in threads & blocked.keys())

    def _executor(self) -> Any:
        """Return what ``sync_to_async`` gives blocking code of its tasks to; None: it has not begun."""
        if self._parent is not None:
            return _unended(self._parent)
        if self._context is not None:
            context = self._context()
            return None if context is None else SyncToAsync.context_to_thread_executor.get(context)
        # One thread for the tasks of all loops, unless ``async_to_sync`` has made the loop
        loops: dict[Any, Any] = AsyncToSync.loop_thread_executors
        executor = loops.get(self._loop) if self._is_task else None
        return SyncToAsync.single_thread_executor if executor is None else _unended(executor)


#: The holders of the leases that ``lease_on_get`` keeps until a set, by the lease's record.
kept: WeakValueDictionary[bytes, LeaseHolder] = WeakValueDictionary()
#: The waits of this process.
_waits: set[ref[Wait]] = set()


class Wait:
    """The wait of one caller for leases. It ends with its only reference.

    Attributes:
        blocked: The threads that it blocks.
    """

    __slots__ = ("__weakref__", "_reference", "blocked")

    def __init__(self) -> None:
        self.blocked: _Blocked = {}
        self._reference = ref(self, _waits.discard)
        _waits.add(self._reference)

    def is_allowed(self, holders: Iterable[LeaseHolder], *, is_task: bool) -> bool:
        """Return whether the caller may wait; False: a holder may wait for the caller.

        Args:
            holders: The code that holds leases in this process, except the loaders around the caller.
            is_task: Whether other tasks of the event loop run while the caller waits.
        """
        if not is_task and _get_running_loop() is not None:
            return False
        try:
            self.blocked = blocked = _blocked(is_task)
            others = [*holders] if blocked else ()
            is_waited_for = any(holder.may_wait_for(blocked) for holder in others)
            is_waited_for = is_waited_for or (bool(others) and _is_last_of_pool(blocked))
        except AttributeError as error:  # another release of asgiref has its threads elsewhere
            raise_interrupt(error)
            return True
        if is_waited_for:
            self.end()
        return not is_waited_for

    def end(self) -> None:
        """Note that the caller does not wait any more, or does something else first."""
        self.blocked = {}


def is_thread_of_tasks() -> bool:
    """Return whether ``sync_to_async`` would give blocking code to the thread that runs the caller's loop.

    It is so if blocking code of a task has called ``asyncio.run``: the thread would wait for itself, forever.
    If that code has given the call to another thread, with its context, asgiref refuses to use the thread of
    all loops, which most probably waits for the caller.
    """
    executor, caller = LeaseHolder()._executor(), current_thread()
    if getattr(executor, "_work_thread", None) is caller:
        return True
    if executor is SyncToAsync.single_thread_executor and SyncToAsync.deadlock_context.get(False):
        return True
    with getattr(executor, "_shutdown_lock", nullcontext()):  # a pool starts a thread before it has it
        return caller in getattr(executor, "_threads", ())


def _waiting_threads() -> set[Thread]:
    """Return the threads that wait for leases.

    The set is copied in one step: the garbage collector may end waits while something else iterates over it.
    """
    waits = [reference() for reference in _waits.copy()]
    return {thread for wait in waits if wait is not None for thread in wait.blocked}


def _is_last_of_pool(blocked: _Blocked) -> bool:
    """Return whether all threads of a pool would wait for leases, while work waits for the pool.

    The thread of ``sync_to_async`` is not counted: it is known which holders give work to it.
    """
    queues = _queues()
    for thread in blocked:
        queue = queues.get(thread)
        if queue is None or queue.qsize() == 0 or any(queue is each for each in _queues_of_tasks()):
            continue
        if {each for each, own in _entries(queues) if own is queue} <= _waiting_threads():
            return True
    return False


def _queues() -> Any:
    """Return the queue of work of each thread of a pool, by thread."""
    return getattr(pools, "_threads_queues", {})


def _queues_of_tasks() -> Iterator[Any]:
    """Yield the queues of the threads to which ``sync_to_async`` gives the blocking code of tasks."""
    contexts: Any = SyncToAsync.context_to_thread_executor
    for executor in (SyncToAsync.single_thread_executor, *(each for _, each in _entries(contexts))):
        yield getattr(executor, "_work_queue", None)


def _entries(weak: Any) -> list[tuple[Any, Any]]:
    """Return the entries of a dictionary with weak keys.

    It is copied in one step: threads that begin, and tasks of other requests, change it meanwhile. Its own
    ``copy`` iterates over it.
    """
    entries = [(reference(), value) for reference, value in weak.data.copy().items()]
    return [(key, value) for key, value in entries if key is not None]


def _has_work(executor: Any) -> bool:
    """Return whether work waits for the threads of an executor."""
    if hasattr(executor, "_work_items"):
        return bool(executor._work_items)
    queue = getattr(executor, "_work_queue", None)
    return queue is not None and queue.qsize() > 0


def _blocked(is_task: bool) -> _Blocked:
    """Return the threads that a wait blocks: that of its caller, and those that wait in ``async_to_sync``.

    A task blocks the thread of its loop for work that is not given to it by the loop. Blocking code of
    ``sync_to_async`` may call ``asyncio.run``: its thread does no other work before that loop ends. The main
    thread of a server, which runs its loop, is given none: its tasks need not ask each loader of the process.
    """
    caller = current_thread()
    blocked: dict[Thread, Any] = {caller: None}
    executors = [executor for executor in _parents() if not getattr(executor, "_broken", False)]
    if is_task and not executors and caller not in _queues():
        return {}
    for executor in executors:
        blocked.setdefault(executor._work_thread, executor)
    return blocked


def _parent() -> Any:
    """Return what runs blocking code of this task in a thread that waits for it; None: no thread does."""
    variable = _variable()
    if variable is not None and variable.get(None) is None:  # as mostly; asgiref takes 4 µs to say so
        return None
    return getattr(getattr(AsyncToSync, "executors", None), "current", None)


def _hidden_parent() -> Any:
    """Return ``_parent`` of the task that has started this thread, if the thread has its context."""
    variable = _variable()
    stored = None if variable is None else variable.get(None)
    return getattr(stored, "data", {}).get("current")


def _variable() -> ContextVar[Any] | None:
    """Return the variable in which asgiref has ``_parent``; None: this release has it elsewhere."""
    variable = getattr(getattr(getattr(AsyncToSync, "executors", None), "_storage", None), "_data", None)
    return variable if isinstance(variable, ContextVar) else None


def _parents() -> Iterator[Any]:
    """Yield the calls of ``async_to_sync`` around the caller, the innermost one first.

    Code that ``asyncio.to_thread`` calls has the context of its task, but asgiref hides what is of the task's
    thread. If that code calls ``async_to_sync``, the context has only this call.
    """
    # A context with an executor of its own hides the calls around it
    hidden: Any = getattr(SyncToAsync.thread_sensitive_context.get(None), "_old_executor", None)
    for inner in (_parent() or _hidden_parent() or _parent_of_pool(current_thread()), hidden):
        executor = inner
        while executor is not None:
            yield executor
            executor = getattr(executor, "_old_executor", None) or _parent_of_pool(executor._work_thread)


def _parent_of_pool(thread: Thread) -> Any:
    """Return the call of ``async_to_sync`` that has made the loop in whose pool a thread works."""
    loops: dict[Any, Any] = AsyncToSync.loop_thread_executors
    return next((executor for loop, executor in loops.copy().items() if thread in _pool_threads(loop)), None)


def _pool_threads(loop: Any) -> Collection[Thread]:
    """Return the threads of the pool of an event loop."""
    return getattr(getattr(loop, "_default_executor", None), "_threads", ())


def _unended(executor: Any) -> Any:
    """Return a call of ``async_to_sync``; if it has ended, the call around it, which does its tasks' work."""
    while getattr(executor, "_broken", False) and getattr(executor, "_old_executor", None) is not None:
        executor = executor._old_executor
    return executor


os.register_at_fork(after_in_child=_waits.clear)  # a forked child does not have the threads that wait
