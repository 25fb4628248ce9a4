"""The transaction in which write-behind writes, with its limits and settings.

Inside another transaction, which is that of a ``TestCase`` or of a request, it is a savepoint. Settings of
Postgres outlive a savepoint, so they are restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.writebehind.limits import limit_times

__all__ = ["limited_transaction"]

#: All settings that write-behind changes in a transaction.
_SETTINGS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "enable_hashjoin",
)
#: Constraints that are deferrable, and are not deferred unless a transaction says so. Those that the role may
#: not name are left out: of schemas that it may not use, and of temporary tables of other sessions.
_INITIALLY_IMMEDIATE = """
SELECT string_agg(format('%I.%I', n.nspname, c.conname), ', ')
FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
WHERE c.condeferrable AND NOT c.condeferred
    AND has_schema_privilege(n.oid, 'USAGE') AND NOT pg_is_other_temp_schema(n.oid)
"""


@contextmanager
def limited_transaction(using: str, *, durable: bool = False) -> Iterator[None]:
    """Open a transaction with the limits of write-behind; inside another one, restore what it changed.

    Args:
        using: The alias of the database.
        durable: Whether it must be committed when the block ends. In the transaction of a ``TestCase``
            Django allows it nevertheless.

    Raises:
        IntegrityError: What the outer transaction has written violates a constraint already.
    """
    connection = connections[using]
    is_nested = connection.in_atomic_block and connection.vendor == "postgresql"
    with transaction.atomic(using=using, durable=durable):
        before = _settings_of(connection) if is_nested else ()
        limit_times(using)
        yield
        if is_nested:
            _restore(connection, before)


def _settings_of(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    """Return the settings of the outer transaction, after a check of what it has written.

    A batch checks all constraints at its end. Without this check, violations of the outer transaction
    would be taken for those of the batch. If the savepoint is rolled back, Postgres restores the modes of
    constraints that were set in the savepoint itself, so they are set here and not only in nested ones.
    """
    with connection.cursor() as cursor:
        try:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except IntegrityError as error:
            error.add_note("The open transaction had written this row before write-behind wrote anything.")
            raise
        cursor.execute(f"SELECT {', '.join('current_setting(%s)' for _ in _SETTINGS)}", _SETTINGS)
        values: tuple[str, ...] = cursor.fetchone()
        return values


def _restore(connection: BaseDatabaseWrapper, before: tuple[str, ...]) -> None:
    """Restore settings, and the initial modes of constraints: Postgres does not say the present ones."""
    calls = ", ".join(f"set_config('{name}', %s, true)" for name in _SETTINGS)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {calls}", before)
        cursor.execute(_INITIALLY_IMMEDIATE)
        [immediate] = cursor.fetchone()
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        if immediate:
            cursor.execute(f"SET CONSTRAINTS {immediate} IMMEDIATE")
