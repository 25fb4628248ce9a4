"""A relay that triggers wake: it waits for ``NOTIFY`` on one connection, and runs when one arrives.

The connection is its own, outside any pool: a connection that goes back to a pool would take its
``LISTEN`` along. A pooler between the process and Postgres does that with its own connections
(pgbouncer in transaction mode), so ``RINGCACHE["listen"]`` may name the server itself.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.conf import project_options
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.relay import RelayResult, relay

__all__ = ["CHANNEL", "receives_notifications", "relay_on_notify"]

logger = logging.getLogger("cachebackend")
#: The channel that the triggers notify.
CHANNEL = "ringcache_outbox"
#: Seconds in which a notification arrives that nothing holds back.
_ARRIVAL_SECONDS = 2.0
_lost_log = LogRateLimit(SYSTEM_CLOCK)


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
        pause: Waits for the seconds that it is given, when no connection can be listened to. The relay runs
            after it.
    """
    if connections[using].vendor != "postgresql":
        while on_round(relay()):
            pause(interval)
        return
    while True:
        try:
            if not _listen(using, on_round, interval):
                return
        except Error as error:
            raise_interrupt(error)
            if _lost_log.to_log():
                logger.warning("the relay lost its connection to database %r: %s", using, error)
            pause(interval)
            if not on_round(relay()):  # the other databases do not wait for this one
                return


def receives_notifications(using: str) -> bool:
    """Return whether the relay's connection receives what the project's own connections notify.

    Raises:
        django.db.Error: The database cannot be reached.
    """
    channel = f"ringcache_{secrets.token_hex(8)}"
    listening, notifying = _listener(using), _connection(using, {})
    try:
        with listening.cursor() as cursor:
            cursor.execute(f"LISTEN {channel}")
        with notifying.cursor() as cursor:
            cursor.execute(f"NOTIFY {channel}")
        with listening.wrap_database_errors:
            return any(True for _ in listening.connection.notifies(timeout=_ARRIVAL_SECONDS, stop_after=1))
    finally:
        listening.close()
        notifying.close()


def _listen(using: str, on_round: Callable[[RelayResult], bool], interval: float) -> bool:
    """Run the relay on a new connection until ``on_round`` ends the loop; then return False."""
    if not receives_notifications(using):
        logger.warning(
            "the relay receives no notifications from database %r, probably because a pooler such as "
            "pgbouncer shares its connections, and runs every %g s only; set RINGCACHE['listen']",
            using,
            interval,
        )
    listening = _listener(using)
    try:
        with listening.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        while on_round(relay()):
            with listening.wrap_database_errors:
                for _ in listening.connection.notifies(timeout=interval, stop_after=1):
                    pass
        return False
    finally:
        listening.close()


def _listener(using: str) -> BaseDatabaseWrapper:
    """Return a new connection to listen on, at the address that the settings name for it."""
    return _connection(using, project_options().listen.get(using, {}))


def _connection(using: str, address: Mapping[str, Any]) -> BaseDatabaseWrapper:
    """Return a new connection of a database, outside its pool, with parts of its block replaced."""
    connection = connections[using]
    block = {**connection.settings_dict, **address, "AUTOCOMMIT": True}
    block["OPTIONS"] = {name: value for name, value in block["OPTIONS"].items() if name != "pool"}
    return type(connection)(block, using)
