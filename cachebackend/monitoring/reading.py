"""Reads figures of servers that may not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import Error

from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt

__all__ = ["try_to_read"]

T = TypeVar("T")


def try_to_read(read: Callable[[], T]) -> T | str:
    """Return what ``read`` returns, or the error message: the page stays up when a server is down."""
    try:
        return read()
    except (RingCacheError, Error) as error:
        raise_interrupt(error)
        return str(error)
