"""How the page says figures: times of day, how long ago, how long things take."""

from __future__ import annotations

import time
from datetime import datetime

from django.utils import timezone

from cachebackend.histogram import Histogram

__all__ = ["duration", "moment", "percentiles"]

#: Units of a duration in seconds, each with from how many seconds on it is used.
_UNITS = (("d", 86_400, 172_800), ("h", 3600, 7200), ("min", 60, 120), ("s", 1, 10))


def duration(seconds: float) -> str:
    """Return how long something takes, in the unit that people would use."""
    for unit, size, least in _UNITS:
        if seconds >= least:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s"


def moment(at: float) -> str:
    """Return a time, in seconds since 1970, as a time of day and how long ago that was."""
    then = datetime.fromtimestamp(at, timezone.get_current_timezone())
    day = "" if then.date() == datetime.now(then.tzinfo).date() else f"{then:%Y-%m-%d} "
    return f"{day}{then:%H:%M:%S} ({duration(time.time() - at)} ago)"


def percentiles(times: Histogram) -> str:
    """Return what half of some operations took at most, and 99 of 100."""
    half, most = times.percentile(0.5), times.percentile(0.99)
    return "" if half is None or most is None else f"p50 {_milliseconds(half)}, p99 {_milliseconds(most)}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
