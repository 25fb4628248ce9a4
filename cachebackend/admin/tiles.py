"""The tiles at the top of the page: one figure for each question that the person on call has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from django.utils.translation import gettext as _

from cachebackend.monitoring import AliasFigures, Fault, OutboxFigures, QueueFigures, WorkerFigures, hit_ratio
from cachebackend.monitoring.formatting import ago, duration, percentiles

__all__ = ["UNKNOWN", "Tile", "tiles"]

#: Stands for a figure of a server that does not answer.
UNKNOWN = "unknown"
#: The most names of nodes that a tile has room for.
_MAX_NAMES = 3


class Tile(NamedTuple):
    """One figure.

    Attributes:
        key: Its name in the page.
        label: What it measures, in a word or two.
        value: The figure.
        note: A second figure beside it.
        href: Where the page shows more.
        is_well: Whether no fault concerns it.
        has_note: Whether it is worth a look although it is well.
        has_fault: Whether a fault concerns it.
    """

    key: str
    label: str
    value: str
    note: str = ""
    href: str = ""
    is_well: bool = True
    has_note: bool = False
    has_fault: bool = False

    @property
    def css_class(self) -> str:
        """How the tile is drawn: one whose figure is unknown is dimmed, unless a fault concerns it."""
        if self.value == UNKNOWN and not self.has_fault:
            return "unknown"
        if not self.is_well:
            return "bad"
        return "warn" if self.has_note else "good"


def tiles(
    aliases: Sequence[AliasFigures], worker: WorkerFigures, outbox: OutboxFigures, queues: QueueFigures
) -> list[Tile]:
    """Return the tiles: three for each alias, then those of the project."""
    faults = [*worker.faults, *outbox.faults, *queues.faults]
    project = (_worker(worker), _pending(outbox), *_waiting(queues))
    return [
        *(tile for figures in aliases for tile in _of_alias(figures, is_alone=len(aliases) == 1)),
        *(_judged(tile, faults) for tile in project),
    ]


def _judged(tile: Tile, faults: Sequence[Fault]) -> Tile:
    """Return a tile with whether a fault concerns it; a note is none."""
    has_fault = any(fault.topic == tile.key for fault in faults if not fault.is_note)
    return tile._replace(is_well=tile.value != UNKNOWN and not has_fault, has_fault=has_fault)


def _of_alias(figures: AliasFigures, *, is_alone: bool) -> Iterator[Tile]:
    alias, suffix = figures.alias, "" if is_alone else f", {figures.alias}"
    href = f"#cache-{alias}"
    down = [node.name for node in figures.nodes if not node.is_up]
    note = _("down: %(names)s") % {"names": _some(down)} if down else ""
    evicting = [node.name for node in figures.nodes if node.evicts_unusually]
    note = note or (_("many evictions: %(names)s") % {"names": _some(evicting)} if evicting else "")
    up = _("%(up)d of %(all)d") % {"up": figures.nodes_up, "all": len(figures.ring_nodes)}
    has_fault = bool(down) or any(fault.topic == "nodes" and not fault.is_note for fault in figures.faults)
    label = f"{_('Ring nodes up')}{suffix}"
    yield Tile(f"nodes-{alias}", label, up, note, href, not has_fault, bool(evicting), has_fault)
    recent, hour = hit_ratio(figures.recent), hit_ratio(figures.hour)
    ratio = (UNKNOWN if figures.recent is None else _("no reads")) if recent is None else f"{recent:.1%}"
    last_hour = "" if hour is None else _("%(ratio)s in the last hour") % {"ratio": f"{hour:.1%}"}
    yield Tile(f"hits-{alias}", f"{_('Hit ratio')}{suffix}, 5 min", ratio, last_hour, href)
    rate = UNKNOWN if figures.gets_per_second is None else f"{figures.gets_per_second:,.0f}"
    times = "" if figures.recent is None else percentiles(figures.recent.get_times)
    yield Tile(f"gets-{alias}", f"{_('Reads per second')}{suffix}", rate, times, href)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_MAX_NAMES])}{' …' if len(names) > _MAX_NAMES else ''}"


def _worker(worker: WorkerFigures) -> Tile:
    value = UNKNOWN if worker.last_runs is None else _("never")
    if worker.last_seen is not None:
        value = ago(worker.last_seen)
    return Tile("worker", _("Worker last seen"), value, href="#invalidation")


def _pending(outbox: OutboxFigures) -> Tile:
    if outbox.rows is None or outbox.lag is None:
        return Tile("pending", _("Pending outbox rows"), UNKNOWN, href="#invalidation")
    note = _("the oldest for %(time)s") % {"time": duration(outbox.lag)} if outbox.rows and outbox.lag else ""
    return Tile("pending", _("Pending outbox rows"), f"{outbox.rows:,}", note, "#invalidation")


def _waiting(queues: QueueFigures) -> Iterator[Tile]:
    if not queues.is_on:
        return
    if queues.waiting is None:
        down = [node.name for node in queues.nodes if not node.is_up]
        note = _("down: %(names)s") % {"names": _some(down)} if down else ""
        yield Tile("waiting", _("Queued writes"), UNKNOWN, note, "#write-behind")
        return
    oldest = (
        _("the oldest for %(time)s") % {"time": duration(queues.oldest_seconds)}
        if queues.oldest_seconds
        else ""
    )
    parked = _("%(number)s parked") % {"number": f"{queues.parked:,}"} if queues.parked else ""
    note = "; ".join(filter(None, (oldest, parked)))
    yield Tile("waiting", _("Queued writes"), f"{queues.waiting:,}", note, "#write-behind")
