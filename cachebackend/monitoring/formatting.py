"""Figures as text: times of day, ages, durations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone

from cachebackend.histogram import Histogram

__all__ = [
    "ago",
    "and_more",
    "counted",
    "duration",
    "listed",
    "memory",
    "moment",
    "percentiles",
    "size",
    "time_of_day",
]

#: The units of a duration: name, seconds in one, and the shortest duration that is written in it.
_UNITS = (("d", 86_400, 172_800), ("h", 3600, 7200), ("min", 60, 120), ("s", 1, 10))
#: No line break comes between a number and its unit.
_SPACE = "\N{NO-BREAK SPACE}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 write`` and ``1,200 writes``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def and_more(number: int) -> str:
    """Return that the same is true of more partitions; empty if there are none."""
    return f" (and {counted(number, 'more partition')})" if number else ""


def duration(seconds: float) -> str:
    """Return a duration in the unit that people would use, such as ``5 min``; a negative one is 0."""
    for unit, size, shortest in _UNITS:
        if seconds >= shortest:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s"


def ago(timestamp: float) -> str:
    """Return how long ago a time was, such as ``5 min ago``.

    Args:
        timestamp: In seconds since 1970. One in the future comes from another machine, whose clock
            is ahead; it is ``just now`` too.
    """
    seconds = time.time() - timestamp
    if seconds < 1:
        return "just now"
    return f"{seconds:.0f} s ago" if seconds < 10 else f"{duration(seconds)} ago"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence, such as ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def moment(timestamp: float) -> str:
    """Return a time, in seconds since 1970, as a time of day and how long ago that was."""
    then = datetime.fromtimestamp(timestamp, timezone.get_current_timezone())
    day = "" if then.date() == datetime.now(then.tzinfo).date() else f"{then:%Y-%m-%d} "
    return f"{day}{then:%H:%M:%S} ({ago(timestamp)})"


def time_of_day(timestamp: float) -> str:
    """Return the hour and the minute of a time, in seconds since 1970."""
    return f"{datetime.fromtimestamp(timestamp, timezone.get_current_timezone()):%H:%M}"


def size(number: int) -> str:
    """Return a number of bytes in the unit that people would use, such as ``1.5 GB``."""
    rest = float(number)
    for unit in ("B", "KB", "MB"):
        if abs(rest) < 1024:
            return f"{rest:.0f}{_SPACE}{unit}" if unit == "B" else f"{rest:.1f}{_SPACE}{unit}"
        rest /= 1024
    return f"{rest:,.1f}{_SPACE}GB"


def memory(used: int | None, limit: int | None) -> str:
    """Return the memory that a server uses, and its limit; empty if that is not known."""
    if used is None:
        return ""
    return f"{size(used)} of {size(limit)}" if limit else f"{size(used)}, no limit"


def percentiles(times: Histogram) -> str:
    """Return the median and the 99th percentile of some durations; empty if there are none."""
    median, slow = times.percentile(0.5), times.percentile(0.99)
    if median is None or slow is None:
        return ""
    return f"p50{_SPACE}{_milliseconds(median)}, p99{_SPACE}{_milliseconds(slow)}"


def _milliseconds(seconds: float) -> str:
    digits = ".2g" if seconds < 0.1 else ".0f"
    return f"{seconds * 1000:{digits}}{_SPACE}ms"
