"""A relay that triggers wake: ``LISTEN`` on one connection, and a round whenever one is told of."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psycopg
from django.db import DatabaseError, connections

from cachebackend.invalidation.relay import Relayed, relay

__all__ = ["CHANNEL", "relay_when_told"]

logger = logging.getLogger("cachebackend")
#: What the triggers notify.
CHANNEL = "ringcache_outbox"


def relay_when_told(
    using: str,
    on_round: Callable[[Relayed], bool],
    *,
    interval: float = 1.0,
    pause: Callable[[float], object],
) -> None:
    """Settle the outbox at once when a trigger tells of a row, and every interval anyhow.

    Args:
        using: The database to listen to; one that is no Postgres tells nothing.
        on_round: Is told what each round did; to return False ends the loop.
        interval: Seconds between two rounds of which nobody told.
        pause: Waits so many seconds, where there is nothing to listen to.
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


def _listen(using: str, on_round: Callable[[Relayed], bool], interval: float) -> bool:
    """Do rounds on a connection of our own until told to end (False) or the connection is lost."""
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
