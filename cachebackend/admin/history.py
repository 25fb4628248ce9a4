"""The charts of the page over an hour, a day or a week, and the same figures as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from cachebackend.admin.charts import line_chart, time_ago
from cachebackend.counters import Counts
from cachebackend.monitoring import AliasFigures, QueueFigures, hit_ratio, try_to_read
from cachebackend.monitoring.queues import write_steps
from cachebackend.monitoring.ring import step_counts
from cachebackend.telemetry.periods import HOUR, PERIODS, Period

__all__ = ["alias_history", "chosen_period", "drained_chart", "period_links"]

#: Seconds.
MINUTE = 60


def chosen_period(name: str | None) -> Period:
    """Return the period that a reader has chosen; the hour if the name is none of the periods."""
    return PERIODS.get(name or "", HOUR)


def period_links(chosen: Period) -> list[tuple[str, str, bool]]:
    """Return for each period its name, its title, and whether it is chosen."""
    titles = {"hour": _("an hour"), "day": _("a day"), "week": _("a week")}
    return [(name, titles[name], period is chosen) for name, period in PERIODS.items()]


def alias_history(figures: AliasFigures, period: Period) -> dict[str, Any]:
    """Return the charts of an alias over a period, and the rows of the table."""
    if period is HOUR:
        steps = list(figures.minutes.values())
    else:
        read = try_to_read(partial(step_counts, figures.alias, period))
        steps = [None] * period.steps if isinstance(read, str) else read
    finished = period.finished(time.time())
    ratios = [None if (ratio := hit_ratio(each)) is None else 100 * ratio for each in steps]
    reads = [None if each is None else each.hits + each.misses for each in steps]
    loads = [None if each is None else each.loads for each in steps]
    chart = partial(line_chart, step_seconds=period.seconds)
    return {
        "charts": [
            (_("Hit ratio"), chart(_("Hit ratio, in percent"), _without_begun(ratios, finished), 100, " %")),
            (_("Reads per minute"), chart(_("Keys read per minute"), _per_minute(reads, period, finished))),
            (_("Loads per minute"), chart(_("Loads per minute"), _per_minute(loads, period, finished))),
        ],
        "rows": _rows(steps, ratios, period),
    }


def drained_chart(queues: QueueFigures, period: Period) -> SafeString:
    """Return the chart of the rows that were drained."""
    if period is HOUR or not queues.is_on:
        steps = queues.minutes
    else:
        read = try_to_read(partial(write_steps, period))
        steps = [None] * period.steps if isinstance(read, str) else read
    rows = [None if each is None else each.rows for each in steps]
    values = _per_minute(rows, period, period.finished(time.time()))
    return line_chart(_("Rows drained per minute"), values, step_seconds=period.seconds)


def _per_minute(counts: Sequence[int | None], period: Period, finished: float) -> list[float | None]:
    """Return counts as rates; that of the current step by the time that is over, which is a part of it."""
    rates = [None if count is None else count * MINUTE / period.seconds for count in counts]
    shown = _without_begun(rates, finished)
    return [*shown[:-1], *(None if rate is None else rate / finished for rate in shown[-1:])]


def _without_begun(values: Sequence[float | None], finished: float) -> list[float | None]:
    """Return values with a gap for the current step if it has only begun: it would look like an outage."""
    return list(values) if finished else [*values[:-1], None]


def _rows(
    steps: Sequence[Counts | None], ratios: Sequence[float | None], period: Period
) -> list[tuple[str, int, int, float | None, int]]:
    """Return the steps in which anything was read or loaded."""
    return [
        (time_ago((len(steps) - 1 - index) * period.seconds), each.hits, each.misses, ratio, each.loads)
        for index, (each, ratio) in enumerate(zip(steps, ratios, strict=True))
        if each is not None and (each.hits or each.misses or each.loads)
    ]
