"""What the page shows: every figure with where it is from; what cannot be seen is said.

``nodes`` has an alias, its nodes and its counts; ``queues`` what is owed, what waits and whether a
worker is there; ``keys`` what stands at a key. Reads only, and waits for no node longer than once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import Error

from cachebackend.errors import RingCacheError
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.inspector import KeyFigures, key_figures
from cachebackend.monitoring.queues import QueueFigures, queue_figures
from cachebackend.monitoring.ring import AliasFigures, NodeFigures, alias_figures, hit_ratio

__all__ = [
    "AliasFigures",
    "Fault",
    "KeyFigures",
    "NodeFigures",
    "QueueFigures",
    "alias_figures",
    "attempt",
    "hit_ratio",
    "key_figures",
    "queue_figures",
]

T = TypeVar("T")


def attempt(ask: Callable[[], T]) -> T | str:
    """Return an answer, or in words why there is none: the page stays up whatever is away."""
    try:
        return ask()
    except (RingCacheError, Error) as error:
        return str(error)
