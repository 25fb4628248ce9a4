"""Writes that were not queued: a fault while more of them fail, and a note afterwards.

They are counted by the minute, so their times are exact to a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cachebackend.counters import DrainCounts
from cachebackend.monitoring.faults import Fault, alias_scope
from cachebackend.monitoring.formatting import counted, time_of_day
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.window import RECENT_MINUTES
from cachebackend.telemetry.agreed_settings import QUEUE

__all__ = ["lost_faults"]

#: Seconds after a minute until every process has published what it counted in it.
PUBLISHED_SECONDS = 15.0
_SCOPE = alias_scope(QUEUE)


class _Loss(NamedTuple):
    """The last minutes in which writes were lost, without a longer pause between two of them.

    Attributes:
        since: When the first of these minutes began, in seconds since 1970.
        until: When the last of them ended.
        counts: What was counted in them.
    """

    since: float
    until: float
    counts: DrainCounts


def lost_faults(minutes: Sequence[DrainCounts | None], now: float) -> Iterator[Fault]:
    """Yield that writes failed, and that writes were dropped.

    Args:
        minutes: What was counted in each of the last minutes, the present one last.
        now: The time, in seconds since 1970.
    """
    if failed := _last_loss(minutes, now, lambda counts: counts.refused + counts.unknown):
        yield _failed_fault(failed, now)
    if dropped := _last_loss(minutes, now, lambda counts: counts.dropped):
        message = f"{_dropped(dropped)}, {_when(dropped, now)}."
        yield Fault(FaultKind.WRITES_DROPPED, message, dropped.since, scope=_SCOPE)


def _failed_fault(loss: _Loss, now: float) -> Fault:
    counts = loss.counts
    failed = counts.refused + counts.unknown
    callers = "its caller" if failed == 1 else "their callers"
    text = f"{counted(failed, 'write')} failed {_when(loss, now)}: {callers} got errors"
    if counts.unknown:
        text += f"; {counts.unknown:,} of them may be queued nevertheless"
    is_note = not _goes_on(loss, now)
    return Fault(FaultKind.WRITES_REFUSED, f"{text}.", loss.since, scope=_SCOPE, is_note=is_note)


def _dropped(loss: _Loss) -> str:
    if loss.counts.dropped == 1:
        return "1 write of a counter was dropped, because it was not queued"
    return f"{loss.counts.dropped:,} writes of counters were dropped, because they were not queued"


def _when(loss: _Loss, now: float) -> str:
    if _goes_on(loss, now):
        return f"since {time_of_day(loss.since)}"
    return f"between {time_of_day(loss.since)} and {time_of_day(loss.until)}, and none since"


def _goes_on(loss: _Loss, now: float) -> bool:
    """Return whether more writes may fail: the last one failed about a minute ago, or later."""
    return now - loss.until < PUBLISHED_SECONDS


def _last_loss(
    minutes: Sequence[DrainCounts | None], now: float, count: Callable[[DrainCounts], int]
) -> _Loss | None:
    present = now // 60 * 60
    loss: _Loss | None = None
    for age, counts in enumerate(reversed(minutes)):
        began = present - 60 * age
        if counts is None or not count(counts):
            continue
        if loss is None:
            loss = _Loss(began, began + 60, DrainCounts())
        elif loss.since - began > 60 * RECENT_MINUTES:
            break
        loss = loss._replace(since=began)
        loss.counts.add(counts)
    return loss
