"""Imports of modules that are imported when they are first used.

A child process that was forked while another thread imported a module waits for that module forever: the
thread that is to finish it exists only in the parent. So a fork waits for such imports. It acquires the lock
of ``logging`` after that, because a module that is imported may need it: the hooks that are registered first
run last.
"""

from __future__ import annotations

import logging  # noqa: F401  # registers its hooks first
import os
import threading
from importlib import import_module
from typing import Any

__all__ = ["import_at_first_use"]

_lock = threading.RLock()


def import_at_first_use(name: str) -> Any:
    """Return a module; no other thread forks while it is imported."""
    with _lock:
        return import_module(name)


def _begin_fork() -> None:
    _lock.acquire()


def _end_fork() -> None:
    _lock.release()


def _new_lock() -> None:
    global _lock  # noqa: PLW0603  # the parent holds the other one
    _lock = threading.RLock()


os.register_at_fork(before=_begin_fork, after_in_parent=_end_fork, after_in_child=_new_lock)
