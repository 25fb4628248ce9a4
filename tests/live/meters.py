"""What the writers of `change_checker` sent and what was acknowledged, compared with the table.

A row that is added to has two sums: ``count``, and ``extra`` in code that has that column. Other rows
belong to one writer, which puts rising values, or creates and deletes the row. An error that says
that nothing was written is believed: the attempt is taken back, so such a write may not appear.
"""

from __future__ import annotations

import multiprocessing
from decimal import Decimal
from typing import Any

from psycopg import Connection

from tests.live.world import TABLE

__all__ = ["EXTRAS", "LIVES", "PUTS", "REST", "SUMS", "Meters", "key_of"]

#: Rows to add to, and rows of each writer in which it puts values, or which it creates and deletes.
ROWS, OWN = 400, 8
#: What a put has beyond two decimal places, where the code has more: rounded, it is the next value.
REST = Decimal("0.0067")
#: The indices of sums of ``count``, of ``extra``, of puts, and of rows that are created and deleted.
SUMS = range(ROWS)
EXTRAS = range(ROWS, 2 * ROWS)
PUTS = range(2 * ROWS, 2 * ROWS + OWN)
LIVES = range(2 * ROWS + OWN, 2 * ROWS + 2 * OWN)
_context = multiprocessing.get_context("spawn")


def key_of(writer: int, index: int) -> int:
    """Return the primary key of an index; only puts and lives have a row for each writer."""
    return index % ROWS + 1 if index in SUMS or index in EXTRAS else 10_000 * (writer + 1) + index


class Meters:
    """What was sent and acknowledged since the table was weighed last, in shared memory.

    Args:
        writers: The number of writers.
        actors: The number of all processes.

    Attributes:
        base: The sums that the table had when it was weighed last.
        attempted: By slot, the additions or the last turn that may have been taken.
        acknowledged: By slot, those that were acknowledged.
        is_unclear: Whether the outcome of an addition to a row is unknown; no writer adds to it any more.
        generations: By process, the generation of the settings that it started with last.
        kills: By process, how many times it was killed.
        reads: By process, the number of checked reads.
        wrong_reads: By process, the number of wrong ones.
    """

    def __init__(self, writers: int, actors: int) -> None:
        self.writers = writers
        self.base, self.is_unclear = _array(2 * ROWS), _array(2 * ROWS)
        self.attempted, self.acknowledged = (_array(writers * LIVES.stop) for _ in range(2))
        self.generations, self.kills, self.reads, self.wrong_reads = (_array(actors) for _ in range(4))
        self.total = 0

    def slot(self, writer: int, index: int) -> int:
        """Return the slot of a writer's index."""
        return writer * LIVES.stop + index

    def bounds(self, index: int) -> tuple[int, int]:
        """Return the least and the greatest sum that a row may have."""
        slots = [self.slot(writer, index) for writer in range(self.writers)]
        base = self.base[index]
        return base + sum(self.acknowledged[s] for s in slots), base + sum(self.attempted[s] for s in slots)

    def additions(self) -> int:
        """Return the number of additions that were acknowledged so far."""
        slots = (self.slot(writer, index) for writer in range(self.writers) for index in (*SUMS, *EXTRAS))
        return self.total + sum(self.acknowledged[slot] for slot in slots)

    def create_table(self, database: Connection[Any]) -> None:
        """Create the table and its rows."""
        database.execute(
            f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, price numeric(18,2), title varchar(40) NOT NULL "
            "DEFAULT '', count integer NOT NULL DEFAULT 0)"
        )
        keys = [key_of(0, index) for index in SUMS]
        keys += [key_of(writer, index) for writer in range(self.writers) for index in PUTS]
        database.execute(f"INSERT INTO {TABLE} (id) SELECT unnest(%s::bigint[])", [keys])

    def weigh(self, database: Connection[Any], *, has_extra: bool) -> list[str]:
        """Compare the table, when nothing is queued, with what was written; start again from what it has."""
        extra = "extra" if has_extra else "0"
        rows = {
            key: stored
            for key, *stored in database.execute(f"SELECT id, count, {extra}, price, title FROM {TABLE}")
        }
        wrong = [
            f"{key} is parked: {error.partition(chr(10))[0]}"
            for key, error in database.execute("SELECT key, error FROM cachebackend_parkedwrite LIMIT 5")
        ]
        for column, indices in enumerate((SUMS, EXTRAS if has_extra else ())):
            for index in indices:
                low, high = self.bounds(index)
                stored = rows[key_of(0, index)][column]
                if not low <= stored <= high:
                    wrong.append(f"sum {index}: {stored} instead of {low} to {high}")
                self._settle_sum(index, int(stored))
        for writer in range(self.writers):
            wrong += self._weigh_own(database, writer, rows)
        return wrong

    def forget_extras(self) -> None:
        """Start again with the column ``extra``, which the table has lost."""
        for index in EXTRAS:
            self._settle_sum(index, 0)

    def settle(self, counts: dict[int, int]) -> None:
        """Start again from these sums of ``count``, by primary key."""
        for index in SUMS:
            self.base[index] = counts[key_of(0, index)]

    def _settle_sum(self, index: int, stored: int) -> None:
        self.base[index], self.is_unclear[index] = stored, 0
        for writer in range(self.writers):
            slot = self.slot(writer, index)
            self.total += self.acknowledged[slot]
            self.attempted[slot] = self.acknowledged[slot] = 0

    def _weigh_own(self, database: Connection[Any], writer: int, rows: dict[int, Any]) -> list[str]:
        wrong = []
        for index in (*PUTS, *LIVES):
            slot, row = self.slot(writer, index), rows.get(key_of(writer, index))
            low, high = self.acknowledged[slot], self.attempted[slot]
            if index in PUTS:
                stored = int((row[2] or 0) * 100) if row else -1
                rest = (row[2] or 0) - Decimal(stored) / 100 if row else 0
                if not low <= stored <= high or rest not in {0, REST}:
                    wrong.append(f"put {writer}.{index}: {row} instead of {low} to {high}")
                self.acknowledged[slot] = self.attempted[slot] = max(stored, 0)
                continue
            expected = str(high) if high % 2 else None
            if low == high and (row[3] if row else None) != expected:
                wrong.append(f"life {writer}.{index}: {row} instead of {expected}")
            database.execute(f"DELETE FROM {TABLE} WHERE id = %s", [key_of(writer, index)])
            self.acknowledged[slot] = self.attempted[slot] = high + high % 2
        return wrong


def _array(size: int) -> Any:
    return _context.Array("q", size, lock=False)
