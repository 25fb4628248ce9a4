"""What one sees first: a tile for each question that someone on call has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cachebackend.monitoring import AliasFigures, QueueFigures, hit_ratio
from cachebackend.monitoring.formatting import duration, percentiles

__all__ = ["Tile", "tiles"]

_UNSEEN = "cannot be seen"


class Tile(NamedTuple):
    """One answer.

    Attributes:
        key: Its name in the page.
        label: The question, in a word or two.
        value: The answer.
        note: What one wants to know besides.
        href: Where the page says more.
        is_well: Whether it is as it should be.
    """

    key: str
    label: str
    value: str
    note: str = ""
    href: str = ""
    is_well: bool = True


def tiles(aliases: Sequence[AliasFigures], queues: QueueFigures) -> list[Tile]:
    """Return the tiles: three for each alias, then those of the project."""
    found = [tile for figures in aliases for tile in _of_alias(figures, is_alone=len(aliases) == 1)]
    wrong = {fault.about for fault in queues.faults}
    for tile in (_worker(queues), _owed(queues), *_waiting(queues)):
        found.append(tile._replace(is_well=tile.key not in wrong and tile.value != _UNSEEN))  # noqa: PERF401
    return found


def _of_alias(figures: AliasFigures, *, is_alone: bool) -> Iterator[Tile]:
    alias, of = figures.alias, "" if is_alone else f", {figures.alias}"
    href = f"#cache-{alias}"
    away = [node.name for node in figures.nodes if not node.is_well]
    note = f"not up: {', '.join(away[:3])}{' …' if len(away) > 3 else ''}" if away else ""
    up = f"{figures.up} of {len(figures.of_ring)}"
    yield Tile(f"nodes-{alias}", f"Nodes up{of}", up, note, href, is_well=not away)
    recent, hour = hit_ratio(figures.recent), hit_ratio(figures.hour)
    ratio = "no gets" if recent is None else f"{recent:.1%}"
    before = "" if hour is None else f"{hour:.1%} in the hour"
    yield Tile(f"hits-{alias}", f"Hit ratio{of}, 5 min", ratio, before, href)
    rate, times = f"{figures.gets_per_second:,.0f}", percentiles(figures.recent.get_times)
    yield Tile(f"gets-{alias}", f"Gets a second{of}", rate, times, href)


def _worker(queues: QueueFigures) -> Tile:
    value = _UNSEEN if queues.last_runs is None else "never"
    if queues.last_runs:
        value = f"{duration(time.time() - max(queues.last_runs.values()))} ago"
    return Tile("worker", "Worker seen", value, href="#invalidation")


def _owed(queues: QueueFigures) -> Tile:
    if queues.owed is None or queues.lag is None:
        return Tile("owed", "Deletes owed", _UNSEEN, href="#invalidation")
    note = f"the oldest for {duration(queues.lag)}" if queues.owed and queues.lag else ""
    return Tile("owed", "Deletes owed", f"{queues.owed:,}", note, "#invalidation")


def _waiting(queues: QueueFigures) -> Iterator[Tile]:
    if not queues.is_on:
        return
    if queues.waiting is None:
        yield Tile("waiting", "Writes waiting", _UNSEEN, href="#write-behind")
        return
    oldest = f"the oldest for {duration(queues.oldest)}" if queues.oldest else ""
    parked = f"{queues.parked:,} parked" if queues.parked else ""
    note = "; ".join(filter(None, (oldest, parked)))
    yield Tile("waiting", "Writes waiting", f"{queues.waiting:,}", note, "#write-behind")
