from __future__ import annotations

import threading

from cachebackend.stats import Stats


def test_counts_of_all_threads_add_up() -> None:
    """Each thread has its own cell, so no count is lost between two."""
    stats = Stats()

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
    stats = Stats()
    for _ in range(50):
        thread = threading.Thread(target=lambda: setattr(stats.cell, "misses", 1))
        thread.start()
        thread.join()
    assert stats.total().misses == 50
    assert len(stats._cells) == 0
