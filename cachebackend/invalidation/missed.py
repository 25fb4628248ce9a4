"""Deletes that a node missed are kept in the outbox: no crash loses them, and every process sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections, router

from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.invalidation.outbox import has_outbox, keys_in, owe
from cachebackend.models import OutboxRow
from cachebackend.registry import prepare_ring_clients

__all__ = ["watch_missed"]

logger = logging.getLogger("cachebackend")
T = TypeVar("T")
#: Seconds that a caller waits for its delete to be kept.
KEEP_SECONDS = 5.0
#: A thread of its own, so that no caller's transaction takes the row back, and no event loop is in the way.
_thread = ThreadPoolExecutor(1, thread_name_prefix="ringcache-outbox")


def watch_missed() -> None:
    """Have every ring client keep what its nodes miss in the outbox."""
    prepare_ring_clients(_prepare)


def _prepare(client: RingClient) -> None:
    def keep(keys: list[bytes]) -> None:
        alias = _alias_of(client)
        if alias is None:
            return
        try:
            _thread.submit(_alone, lambda: _owe(alias, keys)).result(KEEP_SECONDS)
        except Exception as error:  # noqa: BLE001  # the memory has them yet
            logger.warning("what a node missed is kept in memory only: %r", error)

    def owed() -> Iterator[bytes]:
        alias = _alias_of(client)
        if alias is not None:
            yield from _thread.submit(_alone, lambda: _owed(alias)).result(KEEP_SECONDS)

    client.keep_missed, client.owed_keys = keep, owed


def _alias_of(client: RingClient) -> str | None:
    return next((alias for alias in ring_aliases() if ring_options(alias) == client.context.options), None)


def _alone(work: Callable[[], T]) -> T:
    """Do work on connections of the thread's own, and leave none open."""
    try:
        return work()
    finally:
        connections.close_all()


def _owe(alias: str, keys: list[bytes]) -> None:
    owe(router.db_for_write(OutboxRow), {alias: set(keys)})


def _owed(alias: str) -> list[bytes]:
    """Return the keys of an alias that any process owes to any node."""
    return [
        key
        for using in filter(has_outbox, connections)
        for row in OutboxRow.objects.using(using).iterator()
        for key in keys_in(row).get(alias, ())
    ]
