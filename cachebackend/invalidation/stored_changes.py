"""The changes of a large statement, which its writer reads from the outbox rows of the statement.

The memory of the writer does not grow with the rows that change: it reads one outbox row at a time, deletes
the keys of the changed rows that it names, and then the outbox row.

    1. writer   the statement changes rows and writes outbox rows, in one commit
    2. writer   deletes the keys of the first outbox row, and what is wrong of results of queries
    3. writer   deletes the keys of the next outbox row, and so on, and then returns
    4. writer   dies meanwhile, or a node does not confirm: the relay handles the outbox rows that are left

An outbox row that is gone has been handled by the relay, which may begin while a writer is at step 3.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from django.db import DatabaseError, connections

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.changes import ChangedRow, TableChanges
from cachebackend.invalidation.row_texts import TextRow
from cachebackend.invalidation.transaction_deletes import CommittedDeletes
from cachebackend.invalidation.trigger_rows import rows_of_texts
from cachebackend.models import OutboxRow

__all__ = ["delete_stored"]

logger = logging.getLogger("cachebackend")


def delete_stored(changes: TableChanges, pks: Sequence[int], using: str, *, are_updated: bool) -> None:
    """Delete what is wrong because of the changes that outbox rows hold, and these outbox rows.

    Raises nothing: the data is committed.

    Args:
        changes: The changes, without their rows.
        pks: The primary keys of the outbox rows.
        using: The alias of their database.
        are_updated: Whether the changed rows existed before the statement, and exist after it under the
            same primary keys.
    """
    for pk in pks:
        deletes = CommittedDeletes(using)
        deletes.add_outbox_rows([pk])
        try:
            texts = _texts(pk, using)
            if texts is None:
                continue
            rows = _changed_rows(changes, texts, using, are_updated=are_updated)
            deletes.add_stored(replace(changes, rows=rows), with_results=pk == pks[0])
        except DatabaseError as error:
            raise_interrupt(error)
            logger.exception("an invalidation was not finished; the relay will retry it")
            return
        except Exception as error:  # noqa: BLE001  # a row may hold anything, and a project's field may raise it
            raise_interrupt(error)
            logger.warning("everything that is cached of a table is deleted: %r", error)
            if not _can_add_table(deletes, changes):
                continue  # the outbox row remains, and the relay deletes its keys
        deletes.after_commit()


def _can_add_table(deletes: CommittedDeletes, changes: TableChanges) -> bool:
    """Add everything that is cached of the table; return whether it was possible."""
    try:
        deletes.add_table(changes.table)
    except Exception as error:  # functions of the project may raise anything
        raise_interrupt(error)
        logger.exception("the keys of rows that have changed cannot be made")
        return False
    return True


def _texts(pk: int, using: str) -> list[TextRow] | None:
    """Return the rows that an outbox row holds; None: the relay has deleted it."""
    quote = connections[using].ops.quote_name
    table, column = quote(OutboxRow._meta.db_table), quote(str(OutboxRow._meta.pk.column))
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT rows::text FROM {table} WHERE {column} = %s", [pk])
        found = cursor.fetchone()
    return None if found is None else json.loads(found[0])


def _changed_rows(
    changes: TableChanges, texts: Iterable[TextRow], using: str, *, are_updated: bool
) -> list[ChangedRow]:
    """Return changed rows before and after the statement, as far as keys are made of them.

    An outbox row names a row once if its keys stay the same, else before and after the statement.
    """
    model = changes.table.model
    texts = list(texts)
    rows: list[Any] = rows_of_texts(model, texts, using)
    if not are_updated:
        return [ChangedRow(row, None) for row in rows]
    names = [field.attname for field in model._meta.pk_fields]
    states: dict[tuple[Any, ...], list[Any]] = {}
    for row, text in zip(rows, texts, strict=True):
        states.setdefault(tuple(text[name] for name in names), []).append(row)
    return [ChangedRow(each[0], each[-1]) for each in states.values()]
