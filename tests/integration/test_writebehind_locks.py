"""Drains that meet locks of other transactions, and time limits."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from cachebackend.writebehind.limits import IDLE_MS, LOCK_MS, STATEMENT_MS, limit_locks, limit_times

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


def limits() -> list[int]:
    """The session's limits, in milliseconds."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT setting::int FROM unnest(%s::text[]) WITH ORDINALITY AS n(name, i) "
            "JOIN pg_settings USING (name) ORDER BY i",
            [list(LIMITS)],
        )
        return [value for (value,) in cursor.fetchall()]


def test_a_transaction_is_limited_until_it_ends() -> None:
    """Each limit is a setting of this transaction alone."""
    with transaction.atomic():
        limit_times("default")
        assert limits() == [STATEMENT_MS, LOCK_MS, IDLE_MS]
        limit_locks("default", 50)
        limit_locks("default", 80)
        assert limits() == [STATEMENT_MS, 50, IDLE_MS]
    assert limits() == [0, 0, 0]


def test_lower_limits_of_the_session_are_kept() -> None:
    """In any unit in which Postgres shows them."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '7ms'")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '2h'")
        limit_times("default")
        assert limits() == [1000, 7, IDLE_MS]


def test_a_lock_is_waited_for_at_most_half_as_long_as_a_statement_may_take() -> None:
    """So a locked row is an error of its lock, not a slow statement."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '3s'")
        limit_times("default")
        assert limits() == [3000, 1500, IDLE_MS]
