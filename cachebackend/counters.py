"""The counters of a process. Each thread counts in its own cell, so counting takes no lock."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import cycle, repeat
from time import monotonic
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from cachebackend.histogram import Histogram
from cachebackend.interrupts import raise_interrupt

__all__ = ["TIMED_ONE_IN", "CountGroup", "Counters", "Counts", "DrainCounts"]

#: One get in this many is timed, because reading the clock twice costs more than counting.
TIMED_ONE_IN = 64


@dataclass(slots=True)
class CountGroup:
    """A group of counters; each field is a count or a histogram."""

    def add(self, counts: Self) -> None:
        """Add other counts to these."""
        for each in fields(self):
            total, added = getattr(self, each.name), getattr(counts, each.name)
            if isinstance(total, Histogram):
                total.merge(added)
            else:
                setattr(self, each.name, total + added)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name; those of a histogram have the names ``name.bucket``."""
        named: dict[str, int] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Histogram):
                named.update({f"{each.name}.{part}": count for part, count in value.as_dict().items()})
            else:
                named[each.name] = value
        return named

    @classmethod
    def from_dict(cls, named: Mapping[str, int]) -> Self:
        """Return the counts that ``as_dict`` was called on; names of another version are ignored."""
        counts = cls()
        parts: dict[str, dict[str, int]] = {}
        for name, count in named.items():
            field_name, _, part = name.partition(".")
            parts.setdefault(field_name, {})[part] = count
        for each in fields(cls):
            values = parts.get(each.name, {})
            is_histogram = isinstance(getattr(counts, each.name), Histogram)
            setattr(counts, each.name, Histogram.from_dict(values) if is_histogram else values.get("", 0))
        return counts


@dataclass(slots=True)
class Counts(CountGroup):
    """The counters of a cache alias.

    Attributes:
        hits: Keys that were requested and found, those of many-key reads included. A lease or a
            quarantine is not a hit; neither is ``has_key``, ``add`` or ``touch``.
        misses: Keys that were requested and not found, the keys of a node that is down included.
        stale_hits: Hits on values past their timeout or invalidated, for callers that allow stale
            values. They are counted in ``hits`` too.
        near_hits: Hits on copies in the process. They are counted in ``hits`` too.
        loads: Calls of a caller's loader, after a miss or to refresh a value.
        leases_granted: Leases that readers acquired, after a miss or to refresh a value.
        lease_waits: Misses that waited because another caller held the key's lease. Each miss is
            counted once, however long it waited.
        stale_sets_refused: Fills that were refused because their lease had been revoked.
        undecodable: Records that could not be decoded. Each of them is counted in ``misses`` too.
        invalidations: Keys that were deleted because a row of a model changed.
        deletes_missed: Deletes that a node did not confirm, and writes that it did not confirm and
            that may have had to replace a value.
        deletes_replayed: Keys that were deleted on a node when it was back, because it had missed
            their deletes.
        node_failures: Commands that a node did not answer.
        get_times: The time that a node took to answer a ``get`` of one key. One get in 64 is timed.
        load_times: The time that each load took, loads that raised an error included.
    """

    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    near_hits: int = 0
    loads: int = 0
    leases_granted: int = 0
    lease_waits: int = 0
    stale_sets_refused: int = 0
    undecodable: int = 0
    invalidations: int = 0
    deletes_missed: int = 0
    deletes_replayed: int = 0
    node_failures: int = 0
    get_times: Histogram = field(default_factory=Histogram)
    load_times: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class DrainCounts(CountGroup):
    """The counters of write-behind: what became of the writes, and the drains.

    A write is the change, creation or deletion of one row. It is counted once: as accepted, written through,
    dropped, unknown or refused. One that is not valid, so that it is not sent to any node, is not counted.

    Attributes:
        accepted: Writes that a queue node took.
        written_through: Writes that were written to the database at once, because of ``on_full`` or
            ``on_unavailable``.
        dropped: Writes of counters that were dropped because a queue node or the queue did not take them.
        unknown: Writes that raised WriteBehindUnknownError: they may be queued or not.
        refused: Writes that raised another error, and are not queued: the queue or the node is full, the
            node does not answer, or the write contradicts what is queued.
        rows: Rows of the database that drained batches changed. Many accepted writes may be one row.
        missing: Rows that drained batches named and that did not exist.
        parked: Rows that were parked because Postgres refused them.
        drain_times: The time that each drained batch took: one Postgres transaction.
    """

    accepted: int = 0
    written_through: int = 0
    dropped: int = 0
    unknown: int = 0
    refused: int = 0
    rows: int = 0
    missing: int = 0
    parked: int = 0
    drain_times: Histogram = field(default_factory=Histogram)


class Summed(Protocol):
    """What ``Counters`` has one of for each thread: something that can be added up."""

    def add(self, counts: Self, /) -> None:
        """Add other counts to these."""

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""


C = TypeVar("C", bound=Summed)


class Counters(Generic[C]):
    """The counters of one client in one process.

    ``counters.cell.hits += 1`` counts in the calling thread's own cell, and ``total()`` returns the
    sum of all cells. The cell of a thread that has ended is added to one common cell, so a server
    that starts a thread for each request does not collect cells.

    Args:
        kind: The group of counters.

    Attributes:
        on_thread: Called when a thread counts for the first time, in any counters.
    """

    on_thread: ClassVar[Callable[[], None] | None] = None

    def __init__(self, kind: type[C]) -> None:
        self._kind = kind
        self._is_timed = cycle((*repeat(False, TIMED_ONE_IN - 1), True)).__next__
        self.after_fork()

    def after_fork(self) -> None:
        """Set all counters to 0, in a forked child: the parent publishes what the parent counted."""
        self._local = threading.local()
        self._lock = threading.Lock()  # another thread of the parent may have held the parent's lock
        #: The counts of threads that have ended.
        self._ended = self._kind()
        self._cells: list[tuple[weakref.ref[threading.Thread], C]] = []
        #: For each ledger, all counts that it has taken so far.
        self._taken: dict[str, dict[str, int]] = {}

    def begin_get(self) -> float | None:
        """Return the time for ``end_get`` if the get that begins now is timed; else None: most are not."""
        return monotonic() if self._is_timed() else None

    def end_get(self: Counters[Counts], begun: float) -> None:
        """Count the time that a timed get took, given what ``begin_get`` returned."""
        self.cell.get_times.add(monotonic() - begun)

    def take_new(self, ledger: str) -> dict[str, int]:
        """Return what was counted since a ledger last took the counts, by name, without zeros.

        Args:
            ledger: The name of a place where the counts are added up, such as "minutes".
        """
        with self._lock:
            taken, total = self._taken.get(ledger, {}), self._sum().as_dict()
            self._taken[ledger] = total
        return {name: new for name, count in total.items() if (new := count - taken.get(name, 0))}

    def put_back(self, ledger: str, counts: Mapping[str, int]) -> None:
        """Return counts that a ledger took but could not publish: the next ``take_new`` includes them."""
        with self._lock:
            taken = self._taken[ledger]
            self._taken[ledger] = taken | {name: taken[name] - count for name, count in counts.items()}

    @property
    def cell(self) -> C:
        """The counters of the calling thread."""
        try:
            cell: C = self._local.cell
        except AttributeError as error:
            raise_interrupt(error)
            if Counters.on_thread is not None:
                Counters.on_thread()
            cell = self._local.cell = self._kind()
            with self._lock:
                self._merge_ended_threads()
                self._cells.append((weakref.ref(threading.current_thread()), cell))
        return cell

    def total(self) -> C:
        """Return the present sum over all threads."""
        with self._lock:
            return self._sum()

    def _sum(self) -> C:
        self._merge_ended_threads()
        total = self._kind()
        total.add(self._ended)
        for _, cell in self._cells:
            total.add(cell)
        return total

    def _merge_ended_threads(self) -> None:
        alive = []
        for thread, cell in self._cells:
            owner = thread()
            if owner is not None and owner.is_alive():
                alive.append((thread, cell))
            else:
                self._ended.add(cell)
        self._cells = alive
