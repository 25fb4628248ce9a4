"""Counters of what a process did; each thread counts in its own cell, so a count costs no lock."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import cycle, repeat
from time import monotonic
from typing import ClassVar, Generic, Self, TypeVar

from cachebackend.histogram import Histogram

__all__ = ["TIMED_ONE_IN", "Counters", "Counts", "DrainCounts"]

#: Of so many gets one is timed, for to read the time twice costs more than to count.
TIMED_ONE_IN = 64


@dataclass(slots=True)
class _Counted:
    """Counts and histograms, each a field."""

    def add(self, other: Self) -> None:
        """Add another's counts to these."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Histogram):
                mine.merge(theirs)
            else:
                setattr(self, each.name, mine + theirs)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, those of a histogram as ``name.bucket``."""
        named: dict[str, int] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Histogram):
                named.update({f"{each.name}.{part}": count for part, count in value.as_dict().items()})
            else:
                named[each.name] = value
        return named

    @classmethod
    def read(cls, named: Mapping[str, int]) -> Self:
        """Return what ``as_dict`` told; names of another version are left out."""
        counts = cls()
        parts: dict[str, dict[str, int]] = {}
        for name, count in named.items():
            field_name, _, part = name.partition(".")
            parts.setdefault(field_name, {})[part] = count
        for each in fields(cls):
            found = parts.get(each.name, {})
            is_histogram = isinstance(getattr(counts, each.name), Histogram)
            setattr(counts, each.name, Histogram.read(found) if is_histogram else found.get("", 0))
        return counts


@dataclass(slots=True)
class Counts(_Counted):
    """What a cache alias counted.

    Attributes:
        hits: Keys asked for and found, many-key reads included. A lease or quarantine is
            not a hit; neither is ``has_key``, ``add`` or ``touch``.
        misses: Keys asked for and not found, a dead node's keys included.
        stale_hits: Hits, counted as such too, on values past their time or invalidated, for
            callers that allow it.
        near_hits: Hits, counted as such too, on copies in the process.
        loads: Times a caller's loader ran, for a miss or for a value that was due.
        leases_granted: Misses, and values that were due, whose reader was given the right to fill.
        lease_waits: Misses that found another's lease and waited, counted once a miss.
        stale_sets_refused: Fills that came after their lease was revoked, and were not written.
        undecodable: Records that could not be read, each also a miss.
        invalidations: Keys deleted because a model's row changed.
        deletes_missed: Deletes, and writes over what may stand, that a node did not confirm.
        deletes_replayed: Keys that a node was told to delete when it was back.
        node_failures: Commands that a node did not answer.
        get_times: What a node took to answer a ``get`` of one key; one in 64 of them is timed.
        load_times: What each of the loads took, those that raised included.
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
class DrainCounts(_Counted):
    """What the drains of write-behind counted.

    Attributes:
        rows: Rows that batches which landed changed.
        parked: Rows that were set aside because Postgres refused them.
        drain_times: What each batch that landed took: one Postgres transaction.
    """

    rows: int = 0
    parked: int = 0
    drain_times: Histogram = field(default_factory=Histogram)


C = TypeVar("C", bound=_Counted)


class Counters(Generic[C]):
    """The counters of one client in one process.

    ``counters.cell.hits += 1`` counts in the calling thread's own cell; ``total()`` adds
    the cells up. The cell of a thread that ended is folded into a common one, so a
    server that makes a thread a request does not collect cells.

    Args:
        kind: What is counted.

    Attributes:
        on_thread: Called when a thread counts for the first time, whatever it counts.
    """

    on_thread: ClassVar[Callable[[], None] | None] = None

    def __init__(self, kind: type[C]) -> None:
        self._kind = kind
        self._is_timed = cycle((*repeat(False, TIMED_ONE_IN - 1), True)).__next__
        self.after_fork()

    def after_fork(self) -> None:
        """Begin at nought, as in a forked child: what the parent did is the parent's to tell."""
        self._local = threading.local()
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        self._ended = self._kind()
        self._cells: list[tuple[weakref.ref[threading.Thread], C]] = []
        self._taken: dict[str, dict[str, int]] = {}

    def begin_get(self) -> float | None:
        """Return the time, for ``end_get``, if the get that begins now is one that is timed."""
        return monotonic() if self._is_timed() else None

    def end_get(self: Counters[Counts], begun: float | None) -> None:
        """Count what a get took until now, if it is one that is timed."""
        if begun is not None:
            self.cell.get_times.add(monotonic() - begun)

    def take_new(self, ledger: str) -> dict[str, int]:
        """Return what was counted since a ledger last took it, by name; what is 0 is left out."""
        with self._lock:
            taken, total = self._taken.get(ledger, {}), self._sum().as_dict()
            self._taken[ledger] = total
        return {name: new for name, count in total.items() if (new := count - taken.get(name, 0))}

    def put_back(self, ledger: str, counts: Mapping[str, int]) -> None:
        """Count as new again what a ledger took and came to nothing."""
        with self._lock:
            taken = self._taken[ledger]
            self._taken[ledger] = taken | {name: taken[name] - count for name, count in counts.items()}

    @property
    def cell(self) -> C:
        """The calling thread's own counts, to be added to."""
        try:
            cell: C = self._local.cell
        except AttributeError:
            if Counters.on_thread is not None:
                Counters.on_thread()
            cell = self._local.cell = self._kind()
            with self._lock:
                self._fold()
                self._cells.append((weakref.ref(threading.current_thread()), cell))
        return cell

    def total(self) -> C:
        """Return the sum over all threads, as it stands now."""
        with self._lock:
            return self._sum()

    def _sum(self) -> C:
        self._fold()
        total = self._kind()
        total.add(self._ended)
        for _, cell in self._cells:
            total.add(cell)
        return total

    def _fold(self) -> None:
        living = []
        for thread, cell in self._cells:
            owner = thread()
            if owner is not None and owner.is_alive():
                living.append((thread, cell))
            else:
                self._ended.add(cell)
        self._cells = living
