"""A queue node that comes back with older files: its partitions stop until they are repaired."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from cacheproject.services import Services

__all__ = ["bring_back_older_files"]

ROWS = 40
FIRST_KEY = 60_000_000
#: How many times each row is added to before the file is copied, after that, and after it is restored.
BEFORE_COPY, AFTER_COPY, AFTER_RESTORE = 1, 3, 5


def bring_back_older_files(services: Services, times: int) -> tuple[int, list[str]]:
    """Copy the node's files, write and drain more, and restore the copy; ``times`` times.

    Returns:
        The number of partitions that stopped, and descriptions of what is wrong.
    """
    from cachebackend import writebehind
    from cacheproject.demo.models import Article

    keys = range(FIRST_KEY, FIRST_KEY + ROWS)
    Article.objects.bulk_create(Article(pk=key, slug=f"older-{key}", title="x") for key in keys)
    _add(keys, 1)
    drain_all()
    expected, stopped, wrong = 1, 0, []
    for _ in range(times):
        _add(keys, BEFORE_COPY)
        restore = _copy_files(services)
        for _ in range(AFTER_COPY):
            _add(keys, 1)
            drain_all()
        expected += BEFORE_COPY + AFTER_COPY
        restore()
        stopped_now: set[str] = set()
        for _ in range(AFTER_RESTORE):
            _add(keys, 1)
            stopped_now |= drain_all()
        stopped += len(stopped_now)
        faults = writebehind.find_faults(seal=True)
        if stopped_now != {str(fault.partition) for fault in faults}:
            faulty = [str(fault.partition) for fault in faults]
            wrong.append(f"{sorted(stopped_now)} stopped, but find_faults() returned {faulty}")
        for fault in faults:
            writebehind.repair(fault, keep=False)
        _add(keys, 1)
        wrong += [f"{partition} is stopped after its repair" for partition in drain_all()]
        expected += 1
        stored = set(Article.objects.filter(pk__in=keys).values_list("views", flat=True))
        if stored != {expected}:
            wrong.append(f"after an older file {stored} are stored, not {expected}")
    return stopped, wrong


def _add(keys: range, times: int) -> None:
    from django.db.models import F

    from cacheproject.demo.models import Article

    for _ in range(times):
        Article.behind.update_many({key: {"views": F("views") + 1} for key in keys})


def drain_all() -> set[str]:
    """Drain everything as the workers do; return the partitions that stopped."""
    from cachebackend import writebehind
    from cachebackend.errors import WriteBehindStoppedError

    stopped = set()
    for partition in writebehind.seal_dirty():
        try:
            writebehind.drain(partition)
        except WriteBehindStoppedError:
            stopped.add(str(partition))
    return stopped


def _copy_files(services: Services) -> Callable[[], None]:
    """Copy the files of the queue node; return the function that restores them."""
    folder, copy = services.folder / "queue-a", services.folder / "older"

    def restore() -> None:
        services.kill("queue-a")
        shutil.rmtree(folder)
        copy.rename(folder)
        _restart(services)

    services.kill("queue-a")
    shutil.copytree(folder, copy)
    _restart(services)
    return restore


def _restart(services: Services) -> None:
    from cachebackend.writebehind.queue import project_queue
    from tests.fix_services import restart_queue

    restart_queue(services)
    project_queue().close()  # its connections ended with the node's process
