"""Other sessions of the database, which hold locks while a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from django.db import connection

__all__ = ["session"]


@contextmanager
def session(*statements: str, application: str = "") -> Iterator[Any]:
    """Run statements in a transaction of another session, which lasts as long as the block.

    Yields the cursor: ``cursor.execute("ROLLBACK")`` ends the transaction earlier.

    Args:
        statements: The statements, such as ``LOCK TABLE shop_meter``.
        application: The name under which Postgres lists the session.
    """
    with closing(connection.copy()) as other, other.cursor() as cursor:
        for statement in (f"SET application_name = '{application}'", "BEGIN", *statements):
            cursor.execute(statement)
        yield cursor
