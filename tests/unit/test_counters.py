from __future__ import annotations

import threading

from cachebackend.counters import TIMED_ONE_IN, Counts, Stats
from cachebackend.histogram import Histogram


def test_counts_of_all_threads_add_up() -> None:
    """Each thread has its own cell, so no count is lost between two."""
    stats = Stats(Counts)

    def count() -> None:
        for _ in range(2000):
            stats.cell.hits += 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stats.total().hits == 16_000


def test_a_thread_that_ended_leaves_its_counts_and_no_cell() -> None:
    """A server that makes a thread a request does not collect cells."""
    stats = Stats(Counts)
    for _ in range(50):
        thread = threading.Thread(target=lambda: setattr(stats.cell, "misses", 1))
        thread.start()
        thread.join()
    assert stats.total().misses == 50
    assert len(stats._cells) == 0


def test_each_ledger_takes_what_is_new_to_it() -> None:
    """What one took, or put back as it came to nothing, is no matter to the other."""
    stats = Stats(Counts)
    stats.cell.hits += 2
    stats.cell.load_times.add(0.5)
    first = stats.take_new("minutes")
    assert Counts.read(first) == stats.total()
    assert stats.take_new("minutes") == {}
    stats.put_back("minutes", first)
    stats.cell.hits += 1
    assert stats.take_new("minutes") == first | {"hits": 3}
    assert stats.take_new("all")["hits"] == 3


def test_one_get_in_so_many_is_timed() -> None:
    """The others cost no look at a clock."""
    stats = Stats(Counts)
    begun = [stats.begin_get() for _ in range(3 * TIMED_ONE_IN)]
    for each in begun:
        stats.end_get(each)
    assert stats.total().get_times.count == sum(each is not None for each in begun) == 3


def test_counts_of_another_version_are_left_out() -> None:
    """While a deploy goes on, older and newer processes count together."""
    assert Counts.read({"hits": 1, "of old": 5, "old_times.7": 2, "load_times.micros": 9}) == Counts(
        hits=1, load_times=Histogram(micros=9)
    )
