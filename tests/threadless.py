"""A process that can start no more threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["threadless"]

#: What ``Thread.start`` calls: since Python 3.13 it has another name.
_START = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"


@contextmanager
def threadless() -> Iterator[None]:
    """Return the block in which no thread can start, as at the limit of the operating system."""

    def refuse(*_: Any, **__: Any) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, _START, refuse)
        yield
