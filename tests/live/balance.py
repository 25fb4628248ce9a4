"""What the writers of ``drain_checker`` sent and what was acknowledged, compared with what is in Postgres."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = [
    "FIRST_KEY",
    "FRESH",
    "FRESH_A_SECOND",
    "LIVES",
    "PUTS",
    "START",
    "SUMS",
    "Balance",
    "Ledger",
    "put_key",
    "weigh",
]

#: Rows that all writers add to at the same time; rows of each writer in which it puts values; and rows of
#: each writer that it creates and deletes.
SUMS, PUTS, LIVES = 20, 10, 4
#: New rows to add to that each writer has for a run, and for each second of it.
FRESH, FRESH_A_SECOND = 50, 10
#: Keys that the database's sequence does not reach.
FIRST_KEY = 50_000_000
START = datetime(2020, 1, 1, tzinfo=UTC)
_context = multiprocessing.get_context("spawn")


class Ledger:
    """What writers sent and what was acknowledged, in shared memory that outlives them.

    Args:
        writers: The number of processes that write.
        readers: The number of processes that read.
        fresh: The number of new rows that each writer has.
        life_seconds: The longest time after which a writer or a worker is killed.
    """

    def __init__(self, writers: int, readers: int, fresh: int, life_seconds: float) -> None:
        self.writers, self._fresh, self.life_seconds = writers, fresh, life_seconds
        self.sums = SUMS + writers * fresh
        size = writers * (self.sums + PUTS + LIVES)
        self.attempted = _context.Array("q", size, lock=False)
        self.acknowledged = _context.Array("q", size, lock=False)
        self.kills = _context.Array("q", 3, lock=False)
        #: The rows that are added to now, and the number of new rows that each writer has taken.
        self.current = _context.Array("q", range(SUMS), lock=False)
        self._taken = _context.Array("q", writers, lock=False)
        self.reads = _context.Array("q", readers, lock=False)
        self.wrong_reads = _context.Array("q", readers, lock=False)

    def slot(self, writer: int, index: int) -> int:
        return writer * (self.sums + PUTS + LIVES) + index

    def row_to_add_to(self, writer: int, index: int) -> int:
        """Return a row of which this writer knows the result of every addition that it sent."""
        slot = self.slot(writer, self.current[index])
        if self.attempted[slot] != self.acknowledged[slot] and self._taken[writer] < self._fresh:
            self.current[index] = SUMS + writer * self._fresh + self._taken[writer]
            self._taken[writer] += 1
        return int(self.current[index])

    def sum_of(self, side: Any, row: int) -> int:
        return sum(side[self.slot(writer, row)] for writer in range(self.writers))


def put_key(writer: int, index: int) -> int:
    return FIRST_KEY + 1_000_000 + 1000 * writer + index


@dataclass
class Balance:
    """The result of a run.

    Attributes:
        acknowledged: Additions that were acknowledged.
        unknown: Additions that were sent and not acknowledged.
        applied: Additions of both kinds that are in Postgres.
        lost: Rows that have less than was acknowledged, or do not exist.
        doubled: Rows that have more than was sent.
        out_of_order: Rows with a value, or a life, older than the last acknowledged one.
        parked: Writes that were parked.
        reads: Reads of ``behind`` that were checked.
        wrong_reads: Reads that decreased, or were outside of what was acknowledged and sent.
        kills: Kills of writers, of workers, of the queue node and of Postgres.
        older_files: How many times the queue node came back with an older file.
        stopped: Partitions that stopped then; all of them must.
        wrong: Descriptions of the wrong rows.
    """

    acknowledged: int = 0
    unknown: int = 0
    applied: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    parked: int = 0
    reads: int = 0
    wrong_reads: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    older_files: int = 0
    stopped: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """True if everything balances, and something was applied at all."""
        return not (self.wrong or self.parked or self.wrong_reads) and self.applied > 0


def weigh(ledger: Ledger, balance: Balance) -> None:
    """Compare the rows in Postgres with the ledger."""
    from cachebackend.models import ParkedWrite
    from cacheproject.demo.models import Article

    rows = {row.pk: row for row in Article.objects.filter(pk__gte=FIRST_KEY)}
    balance.parked = ParkedWrite.objects.count()
    for index in range(ledger.sums):
        low, high = ledger.sum_of(ledger.acknowledged, index), ledger.sum_of(ledger.attempted, index)
        stored = rows[FIRST_KEY + index].views
        balance.applied += stored
        balance.lost += stored < low
        _judge(balance, f"sum {index}", low, stored, high)
    for writer in range(ledger.writers):
        for index in range(ledger.sums, ledger.sums + PUTS + LIVES):
            slot = ledger.slot(writer, index)
            low, high = ledger.acknowledged[slot], ledger.attempted[slot]
            row = rows.get(put_key(writer, index))
            if index < ledger.sums + PUTS:
                seen = (
                    (row.last_viewed - START) // timedelta(microseconds=1) if row and row.last_viewed else 0
                )
                balance.lost += not seen and low > 0
                balance.out_of_order += 0 < seen < low
                _judge(balance, f"put {writer}.{index}", low, seen, high)
            elif low == high:  # otherwise it is unknown whether the last write was applied, or half of it
                expected = str(high) if high % 2 else None
                if (row.title if row else None) != expected:
                    balance.lost += row is None
                    balance.out_of_order += row is not None
                    balance.wrong.append(f"life {writer}.{index}: {row and row.title}, not {expected}")
    balance.acknowledged, balance.unknown = _totals(ledger)


def _totals(ledger: Ledger) -> tuple[int, int]:
    """Return how many additions were acknowledged, and how many were not."""
    low = sum(ledger.sum_of(ledger.acknowledged, index) for index in range(ledger.sums))
    return low, sum(ledger.sum_of(ledger.attempted, index) for index in range(ledger.sums)) - low


def _judge(balance: Balance, name: str, low: int, stored: int, high: int) -> None:
    balance.doubled += stored > high
    if not low <= stored <= high:
        balance.wrong.append(f"{name}: {low} acknowledged, {high} sent, {stored} stored")
