"""Counters of what a process did; each thread counts in its own cell, so a count costs no lock."""

from __future__ import annotations

import threading
import weakref
from dataclasses import asdict, dataclass, fields

__all__ = ["Counts", "Stats"]


@dataclass(slots=True)
class Counts:
    """What was counted since the process began.

    Attributes:
        hits: Keys asked for and found, many-key reads included. A lease or quarantine is
            not a hit; neither is ``has_key``, ``add`` or ``touch``.
        misses: Keys asked for and not found, a dead node's keys included.
        stale_hits: Hits, counted as such too, on values past their time or invalidated, for
            callers that allow it.
        near_hits: Hits, counted as such too, on copies in the process.
        loads: Times a caller's loader ran, for a miss or for a value that was due.
        load_seconds: What those loaders took together, those that raised included.
        leases_granted: Misses, and values that were due, whose reader was given the right to fill.
        lease_waits: Misses that found another's lease and waited, counted once a miss.
        stale_sets_refused: Fills that came after their lease was revoked, and were not written.
        undecodable: Records that could not be read, each also a miss.
        invalidations: Keys deleted because a model's row changed.
        deletes_missed: Deletes, and writes over what may stand, that a node did not confirm.
        deletes_replayed: Keys that a node was told to delete when it was back.
        node_failures: Commands that a node did not answer.
    """

    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    near_hits: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    leases_granted: int = 0
    lease_waits: int = 0
    stale_sets_refused: int = 0
    undecodable: int = 0
    invalidations: int = 0
    deletes_missed: int = 0
    deletes_replayed: int = 0
    node_failures: int = 0

    def add(self, other: Counts) -> None:
        """Add another's counts to these."""
        for name in _NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, float]:
        """Return the counts by name."""
        return asdict(self)


_NAMES = tuple(f.name for f in fields(Counts))


class Stats:
    """The counters of one alias in one process.

    ``stats.cell.hits += 1`` counts in the calling thread's own cell; ``total()`` adds
    the cells up. The cell of a thread that ended is folded into a common one, so a
    server that makes a thread a request does not collect cells.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._ended = Counts()
        self._cells: list[tuple[weakref.ref[threading.Thread], Counts]] = []
        self._taken = Counts()

    def take_new(self) -> dict[str, float]:
        """Return what was counted since it was last taken, by name; what is 0 is left out."""
        total, taken = self.total().as_dict(), self._taken.as_dict()
        new = {name: count - taken[name] for name, count in total.items() if count != taken[name]}
        self._taken.add(Counts(**new))  # type: ignore[arg-type]  # each by its own name
        return new

    def put_back(self, counts: dict[str, float]) -> None:
        """Count as new again what was taken and came to nothing."""
        self._taken.add(Counts(**{name: -count for name, count in counts.items()}))  # type: ignore[arg-type]

    @property
    def cell(self) -> Counts:
        """The calling thread's own counts, to be added to."""
        try:
            cell: Counts = self._local.cell
        except AttributeError:
            cell = self._local.cell = Counts()
            with self._lock:
                self._fold()
                self._cells.append((weakref.ref(threading.current_thread()), cell))
        return cell

    def total(self) -> Counts:
        """Return the sum over all threads, as it stands now."""
        total = Counts()
        with self._lock:
            self._fold()
            total.add(self._ended)
            for _, cell in self._cells:
                total.add(cell)
        return total

    def after_fork(self) -> None:
        """Begin at nought in a forked child: what the parent did is the parent's to tell."""
        self.__init__()  # type: ignore[misc]  # a new lock too: another thread may have held the old one

    def _fold(self) -> None:
        living = []
        for thread, cell in self._cells:
            owner = thread()
            if owner is not None and owner.is_alive():
                living.append((thread, cell))
            else:
                self._ended.add(cell)
        self._cells = living
