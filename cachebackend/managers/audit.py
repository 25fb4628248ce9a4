"""Holds cached rows against the database, and tells how soon those that differed were right."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cachebackend.invalidation.watched import dependents_of, watched_models
from cachebackend.managers.cached import CachedManager

__all__ = ["WINDOWS", "Audited", "audit", "cached_managers"]

#: Seconds after which entries that differed are looked at again.
WINDOWS = (0.0, 1.0, 5.0, 60.0)


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit of one model found.

    Attributes:
        model: The model's label.
        sampled: Rows that were drawn.
        cached: Those of which something was cached.
        differing: How many of them differed still, after each window.
    """

    model: str
    sampled: int
    cached: int
    differing: dict[float, int]

    def consistent(self, window: float) -> float:
        """Return what share of the cached entries was right within a window; 1.0 if none was cached."""
        return 1.0 - self.differing[window] / self.cached if self.cached else 1.0

    def nines(self, window: float) -> float:
        """Return that share in nines: 0.999 is 3.0; infinite if none differed."""
        wrong = 1.0 - self.consistent(window)
        return math.inf if not wrong else -math.log10(wrong)


def cached_managers() -> list[CachedManager[Any]]:
    """Return every CachedManager of the project."""
    return [
        dependent
        for model in watched_models()
        for watched, dependent in dependents_of(model)
        if watched is model and isinstance(dependent, CachedManager)
    ]


def audit(
    manager: CachedManager[Any],
    sample: int = 1000,
    windows: Sequence[float] = WINDOWS,
    sleep: Callable[[float], None] = time.sleep,
) -> Audited:
    """Draw rows, and hold what is cached of them against the database. Fills nothing.

    Args:
        manager: What caches the rows.
        sample: How many rows to draw.
        windows: Seconds after which those that differ are looked at again, ascending.
        sleep: How to wait; a test has none of it.
    """
    drawn = list(manager.model._base_manager.order_by("?").values_list("pk", flat=True)[:sample])
    cached = len(manager.cached_rows(drawn))
    suspects, passed = drawn, 0.0
    differing: dict[float, int] = {}
    for window in windows:
        if suspects and window > passed:
            sleep(window - passed)
            passed = window
        suspects = manager.differing(suspects) if suspects else []
        differing[window] = len(suspects)
    return Audited(manager.model._meta.label, len(drawn), cached, differing)
