"""A relay that triggers wake: it waits for ``NOTIFY`` on one connection, and runs when one arrives."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psycopg
from django.db import DatabaseError, connections

from cachebackend.invalidation.relay import RelayResult, relay

__all__ = ["CHANNEL", "relay_on_notify"]

logger = logging.getLogger("cachebackend")
#: The channel that the triggers notify.
CHANNEL = "ringcache_outbox"


def relay_on_notify(
    using: str,
    on_round: Callable[[RelayResult], bool],
    *,
    interval: float = 1.0,
    pause: Callable[[float], object],
) -> None:
    """Run the relay as soon as a trigger writes a row, and every ``interval`` seconds otherwise.

    Args:
        using: The database to listen to; one that is not Postgres sends no notifications.
        on_round: Called with the result of each run; it ends the loop by returning False.
        interval: Seconds between two runs if no notification arrives.
        pause: Waits for the seconds that it is given, when no connection can be listened to.
    """
    if connections[using].vendor != "postgresql":
        while on_round(relay()):
            pause(interval)
        return
    while True:
        try:
            if not _listen(using, on_round, interval):
                return
        except (DatabaseError, psycopg.Error) as error:
            logger.warning("the relay lost its connection to database %r: %s", using, error)
            pause(interval)


def _listen(using: str, on_round: Callable[[RelayResult], bool], interval: float) -> bool:
    """Run the relay on a new connection until ``on_round`` ends the loop; then return False."""
    listening = connections[using].copy()
    try:
        with listening.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        while on_round(relay()):
            for _ in listening.connection.notifies(timeout=interval, stop_after=1):
                pass
        return False
    finally:
        listening.close()
