"""Raw SQL in autocommit on a table with triggers: it runs in a transaction, as the ORM's writes do.

The triggers of a statement write outbox rows. At the commit of a transaction the process takes them
in: it quarantines strict keys before, and deletes keys after. A statement in autocommit has no such
commit, and its outbox rows would wait for the relay. They do so if the statement does not say that it
changes the table: a call of a function or procedure, ``DO``, a view, a cascade from another table.
Such statements are not run in a transaction, because a procedure may commit by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from cachebackend.backend.open_transactions import is_in_transaction
from cachebackend.invalidation.trigger_rows import triggered_models

__all__ = ["changes_triggered_table"]

#: The statements that change rows, after comments and settings; all of them may run in a transaction.
_CHANGES = re.compile(
    r"(?>\s|\(|--[^\n]*\n|/\*.*?\*/|SET\b[^;]*;)*"
    r"(?:(?:INSERT|UPDATE|DELETE|MERGE|TRUNCATE)\b|WITH\b.*\b(?:INSERT|UPDATE|DELETE|MERGE)\b)",
    re.IGNORECASE | re.DOTALL,
)


def changes_triggered_table(statement: str) -> bool:
    """Return whether a statement seems to change a table with triggers: it names one."""
    if not triggered_models() or not _CHANGES.match(statement):
        return False
    text = statement.lower()
    return any(model._meta.db_table.lower() in text for model in triggered_models())


def _text(statement: Any, connection: BaseDatabaseWrapper) -> str:
    """Return the text of a statement: ``str``, ``bytes``, or an object of ``psycopg.sql``."""
    if isinstance(statement, bytes):
        return statement.decode(errors="replace")
    if hasattr(statement, "as_string"):
        connection.ensure_connection()
        return str(statement.as_string(connection.connection))
    return str(statement)


def _run_in_transaction(
    execute: Callable[..., Any], statement: Any, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    connection: BaseDatabaseWrapper = context["connection"]
    if is_in_transaction(connection) or not changes_triggered_table(_text(statement, connection)):
        return execute(statement, params, many, context)
    with transaction.atomic(using=connection.alias, savepoint=False):
        return execute(statement, params, many, context)


def _watch(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    if connection.vendor == "postgresql" and _run_in_transaction not in connection.execute_wrappers:
        # At the front, because ``connection.execute_wrapper`` removes the last one at its end
        connection.execute_wrappers.insert(0, _run_in_transaction)


connection_created.connect(_watch, dispatch_uid="ringcache:raw_sql")
