from __future__ import annotations

import threading

from cachebackend.counters import TIMED_ONE_IN, Counters, Counts
from cachebackend.histogram import Histogram


def test_counts_of_all_threads_add_up() -> None:
    """Each thread has its own cell, so two threads never overwrite a count."""
    counters = Counters(Counts)

    def count() -> None:
        for _ in range(2000):
            counters.cell.hits += 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.total().hits == 16_000


def test_the_counts_of_a_thread_that_ended_are_kept_without_its_cell() -> None:
    """A server that starts a thread for each request does not collect cells."""
    counters = Counters(Counts)
    for _ in range(50):
        thread = threading.Thread(target=lambda: setattr(counters.cell, "misses", 1))
        thread.start()
        thread.join()
    assert counters.total().misses == 50
    assert len(counters._cells) == 0


def test_each_ledger_takes_the_counts_that_are_new_to_it() -> None:
    """The counts that one ledger took or returned do not change those of another."""
    counters = Counters(Counts)
    counters.cell.hits += 2
    counters.cell.load_times.add(0.5)
    first = counters.take_new("minutes")
    assert Counts.from_dict(first) == counters.total()
    assert counters.take_new("minutes") == {}
    counters.put_back("minutes", first)
    counters.cell.hits += 1
    assert counters.take_new("minutes") == first | {"hits": 3}
    assert counters.take_new("all")["hits"] == 3


def test_one_get_in_64_is_timed() -> None:
    """The others do not read the clock."""
    counters = Counters(Counts)
    begun = [counters.begin_get() for _ in range(3 * TIMED_ONE_IN)]
    timed = [each for each in begun if each is not None]
    for each in timed:
        counters.end_get(each)
    assert counters.total().get_times.count == len(timed) == 3


def test_counts_of_another_version_are_ignored() -> None:
    """During a deploy, older and newer processes publish to the same counters."""
    assert Counts.from_dict({"hits": 1, "of old": 5, "old_times.7": 2, "load_times.micros": 9}) == Counts(
        hits=1, load_times=Histogram(micros=9)
    )
