"""The minutes that charts and rates cover; the current minute is the last of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from cachebackend.counters import CountGroup

__all__ = ["MINUTES", "RECENT_MINUTES", "recent_seconds", "total_of", "without_lost"]

C = TypeVar("C", bound=CountGroup)

#: Minutes of a chart, and of its sums.
MINUTES = 60
#: Minutes of a figure that is called recent.
RECENT_MINUTES = 5


def recent_seconds() -> float:
    """Return the length of the recent minutes until now, in seconds: the current minute is not over."""
    return (RECENT_MINUTES - 1) * 60 + time.time() % 60


def total_of(minutes: Iterable[C | None]) -> C | None:
    """Return the sum of the minutes that are known; None, not zeros, if none is."""
    known = [counts for counts in minutes if counts is not None]
    if not known:
        return None
    total = type(known[0])()
    for counts in known:
        total.add(counts)
    return total


def without_lost(
    minutes: Mapping[int, C | None], find_lost: Callable[[Collection[int]], set[int]]
) -> dict[int, C | None]:
    """Return the counts by minute, with None for the minutes whose counts were lost.

    Args:
        minutes: The counts by minute.
        find_lost: Returns which of the minutes without any count were lost.
    """
    empty = [number for number, counts in minutes.items() if counts is not None and not any_counted(counts)]
    lost = find_lost(empty) if empty else set()
    return {number: None if number in lost else counts for number, counts in minutes.items()}


def any_counted(counts: CountGroup) -> bool:
    """Return whether anything was counted."""
    return any(counts.as_dict().values())
