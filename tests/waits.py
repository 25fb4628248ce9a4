"""Waiting in tests for what another thread or process does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["wait_for_threads", "wait_until"]


def wait_until(condition: Callable[[], Any]) -> None:
    """Return when a condition is true; another thread or a server makes it true."""
    deadline, done = time.monotonic() + 30, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        done.wait(0.002)


def wait_for_threads(prefix: str) -> None:
    """Return when no thread runs whose name begins so."""
    wait_until(lambda: not any(each.name.startswith(prefix) for each in threading.enumerate()))
