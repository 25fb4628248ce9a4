"""Compares cached rows with the database, and measures how soon those that differ become equal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cachebackend.invalidation.watched import dependents_of, watched_models
from cachebackend.managers.cached import CachedManager

__all__ = ["WINDOWS", "AuditResult", "audit", "cached_managers"]

#: Seconds after which cached rows that differed are compared again.
WINDOWS = (0.0, 1.0, 5.0, 60.0)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit of one model found.

    Attributes:
        model: The model's label.
        sampled: The number of rows that were sampled.
        cached: The number of them that were cached.
        differing: The number of cached rows that still differed, by window in seconds.
    """

    model: str
    sampled: int
    cached: int
    differing: dict[float, int]

    def consistent(self, window: float) -> float:
        """Return the share of cached rows that were right within a window; 1.0 if none was cached."""
        return 1.0 - self.differing[window] / self.cached if self.cached else 1.0

    def nines(self, window: float) -> float:
        """Return that share in nines: 0.999 is 3.0; infinity if no row differed."""
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
) -> AuditResult:
    """Sample rows at random, and compare what is cached of them with the database. Fills nothing.

    Args:
        manager: The manager that caches the rows.
        sample: The number of rows to sample.
        windows: Seconds after which rows that differ are compared again, in ascending order.
        sleep: Waits for a number of seconds; tests replace it.
    """
    sampled = list(manager.model._base_manager.order_by("?").values_list("pk", flat=True)[:sample])
    cached = len(manager.cached_rows(sampled))
    suspects, elapsed = sampled, 0.0
    differing: dict[float, int] = {}
    for window in windows:
        if suspects and window > elapsed:
            sleep(window - elapsed)
            elapsed = window
        suspects = manager.differing(suspects) if suspects else []
        differing[window] = len(suspects)
    return AuditResult(manager.model._meta.label, len(sampled), cached, differing)
