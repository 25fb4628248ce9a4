"""Starts threads, and calls blocking functions of an event loop in them.

A process cannot start a thread at the limit of its operating system, and while the interpreter ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

from cachebackend.interrupts import raise_interrupt

__all__ = ["call_in_thread", "is_thread_refused", "start_if_possible", "start_thread"]

T = TypeVar("T")
#: How Python's errors begin if no thread can start.
_REFUSED = re.compile("can't (start|create) new thread|cannot schedule new futures")


async def call_in_thread(function: Callable[[], T]) -> T:
    """Return what a function returns: in another thread, so that it does not block the event loop.

    The function may be called twice, so it must be idempotent.
    """
    try:
        future = asyncio.get_running_loop().run_in_executor(None, copy_context().run, function)
    except RuntimeError as error:
        raise_interrupt(error)
        if not is_thread_refused(error):
            raise
        return function()  # a pool may call it a second time, when it can start a thread again
    return await future


def is_thread_refused(error: BaseException) -> bool:
    """Return whether an error means that the process cannot start another thread."""
    return isinstance(error, RuntimeError) and _REFUSED.match(str(error)) is not None


def start_thread(thread: Thread) -> None:
    """Start a thread; if a signal handler raises meanwhile, raise its exception.

    Python's own cleanup of an interrupted start may raise another one, such as "release unlocked lock".
    The thread may run or not then.
    """
    try:
        thread.start()
    except (KeyError, RuntimeError) as error:
        if error.__context__ is not None:
            raise_interrupt(error.__context__)
        raise


def start_if_possible(thread: Thread) -> None:
    """Start a thread as ``start_thread`` does, unless the process cannot start another one."""
    try:
        start_thread(thread)
    except RuntimeError as error:
        raise_interrupt(error)
        if not is_thread_refused(error):
            raise
