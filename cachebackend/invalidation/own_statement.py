"""The pending deletes of a statement that is a transaction of its own and writes its outbox row.

When the statement returns, it is committed. An error would make the caller repeat a change that is stored. So
an error in code that makes the keys, such as a ``KEY_FUNCTION`` that knows no tenant, is logged, and
everything that is cached of the table is deleted. If this is not possible either, the outbox row remains, and
the relay deletes its keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.statement_outbox import StatementOutbox
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.transaction_deletes import CommittedDeletes

__all__ = ["OwnStatement"]

logger = logging.getLogger("cachebackend")


class OwnStatement(CommittedDeletes):
    """The pending deletes of one statement, and the outbox rows that it writes.

    Args:
        using: The alias of the database.
        table: The table whose rows the statement changes.
        outbox: Lets the statement write its outbox rows.
    """

    def __init__(self, using: str, table: WatchedTable, outbox: StatementOutbox) -> None:
        super().__init__(using)
        self._table, self.outbox = table, outbox

    def finish(self, add: Callable[[], None]) -> None:
        """Delete the keys of the changed rows, and the outbox rows if every node confirms.

        Raises nothing but what a signal handler raises: the change is committed.

        Args:
            add: Adds the keys.
        """
        if self._can_add(add) or self._can_add(lambda: self.add_table(self._table)):
            self.add_outbox_rows(self.outbox.pks)
        self.after_commit()

    def _can_add(self, add: Callable[[], None]) -> bool:
        """Add keys; return whether it was possible."""
        try:
            add()
        except Exception as error:  # functions and fields of the project may raise anything
            raise_interrupt(error)
            extra = {"event": "keys_unknown", "table": self._table.model._meta.db_table}
            logger.exception("the keys of rows that have changed cannot be made", extra=extra)
            return False
        return True
