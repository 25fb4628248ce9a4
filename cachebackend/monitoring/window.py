"""The minutes that charts and rates cover; the current minute is the last of them."""

from __future__ import annotations

import time

__all__ = ["MINUTES", "RECENT_MINUTES", "recent_seconds"]

#: Minutes of a chart, and of its sums.
MINUTES = 60
#: Minutes of a figure that is called recent.
RECENT_MINUTES = 5


def recent_seconds() -> float:
    """Return the length of the recent minutes until now, in seconds: the current minute is not over."""
    return (RECENT_MINUTES - 1) * 60 + time.time() % 60
