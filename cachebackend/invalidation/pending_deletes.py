"""What one transaction invalidates: the keys to delete after its commit, and what becomes of them before."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import models

from cachebackend import protocol
from cachebackend.backend.keys import ANY_KEY, is_tag_key, pattern_key
from cachebackend.backend.query_names import prefixes_of_queries
from cachebackend.backend.scope import databases_of_write, scopes_of_write
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.conf import namespace_function
from cachebackend.errors import NodeUnavailableError
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.changes import TableChanges
from cachebackend.invalidation.deletes import delete_together, ring_cache_of, values_and_tags
from cachebackend.invalidation.key_parts import ROWS_OF_UNIT, KeyParts
from cachebackend.invalidation.query_changes import (
    MAX_ROWS,
    ResultChange,
    ValueChange,
    change_of_columns,
    changes_of_rows,
    unknown_change,
)
from cachebackend.invalidation.stored_keys import MAX_CHANGE_BYTES
from cachebackend.invalidation.tables import (
    WatchedTable,
    changed_rows,
    has_rows_of,
    table_name,
    tables_of,
    watched_tables,
)
from cachebackend.invalidation.watched import Dependent, KeysByAlias, Row, add_keys

__all__ = ["PendingDeletes"]

logger = logging.getLogger("cachebackend")


class PendingDeletes:
    """What one transaction invalidates, or one statement in autocommit.

    Args:
        using: The alias of the database whose rows change.

    Attributes:
        keys: The keys to delete.
        strict_keys: Those that must be in quarantine when the change is committed.
        quarantined: Those that this writer has put in quarantine.
    """

    def __init__(self, using: str) -> None:
        self.using = using
        self.keys: KeysByAlias = {}
        self.strict_keys: KeysByAlias = {}
        self.quarantined: KeysByAlias = {}
        #: The tables of which results of queries may be wrong, and how many rows of each have changed.
        self.changed_tables: Counter[str] = Counter()
        self._bytes_of_changes = 0
        self._token = SYSTEM_CLOCK.token()
        self._refills: dict[int, tuple[Dependent, set[Any]]] = {}
        self._parts = KeyParts()

    @property
    def outbox_parts(self) -> list[KeysByAlias]:
        """The keys of each outbox row that the transaction writes."""
        return self._parts.of_outbox_rows(self.keys)

    def add_rows(self, model: type[models.Model], rows: Sequence[Row]) -> None:
        """Add what is wrong because rows of a model have changed, in any of the tables that hold them."""
        self._add_keys_of(model, rows)
        for table in tables_of(model):  # which values of other columns they had is not known
            self._add_result_change(table, unknown_change(table.model._meta.db_table, self.using))

    def add_states(
        self, model: type[models.Model], rows: Sequence[Row] | None, changes: Sequence[ValueChange]
    ) -> None:
        """Add what is wrong because rows of a model's own table have changed.

        Args:
            model: The model.
            rows: The rows before and after the change; None: which rows changed is not known.
            changes: What they change for results of queries over the table.
        """
        if rows is None:
            self.add_model(model)
            return
        self._add_keys_of(model, rows)
        table = model._meta.db_table
        for each in watched_tables(table):
            change = ResultChange(scopes_of_write(self.using), table_name(table), changes)
            self._add_result_change(each, change)

    def _add_keys_of(self, model: type[models.Model], rows: Sequence[Row]) -> None:
        """Add the keys of changed rows, and the rows themselves for dependents that write through.

        By which keys another model of the table caches them is not known.
        """
        for table in tables_of(model) if rows else ():
            if not has_rows_of(table, model):
                self._add_everything_of(table)
        for start in range(0, len(rows), ROWS_OF_UNIT):
            self._parts.begin_unit()
            for dependent, found in changed_rows(model, rows[start : start + ROWS_OF_UNIT], self.using):
                self.add_changed(dependent, found)

    def add_changes(self, changes: TableChanges) -> None:
        """Add what is wrong because a statement has changed rows of a table."""
        self._add_dependents(changes)
        if changes.table.result_aliases and (change := changes_of_rows(changes, self.using)) is not None:
            self._add_result_change(changes.table, change)

    def add_stored(self, changes: TableChanges, *, with_results: bool) -> None:
        """Add what is wrong because of some of the rows that a large statement has changed.

        Args:
            changes: The changes, with the columns of the rows that keys are made of.
            with_results: Whether to add the results of queries that any row of the statement makes wrong.
        """
        self._add_dependents(changes)
        if with_results:
            self._add_result_change(changes.table, change_of_columns(changes, self.using))

    def _add_dependents(self, changes: TableChanges) -> None:
        for unit in changes.units(ROWS_OF_UNIT):
            self._parts.begin_unit()
            for dependent, rows in unit.of_dependents(self.using):
                self.add_changed(dependent, rows)

    def _add_result_change(self, table: WatchedTable, change: ResultChange) -> None:
        """Add a change that makes results of queries over a table wrong.

        It is added without its rows if the transaction has changed too many: the relay reads no outbox row
        of any length, and a change of columns alone is short.
        """
        if not table.result_aliases:
            return
        self.changed_tables[change.table] += len(change.rows or ())
        if self.changed_tables[change.table] > MAX_ROWS:
            change = change.without_rows()
        key = change.key
        self._bytes_of_changes += len(key)
        if self._bytes_of_changes > MAX_CHANGE_BYTES:
            key = change.without_rows().key
        self._add({alias: {key} for alias in table.result_aliases})

    def add_model(self, model: type[models.Model]) -> None:
        """Add everything that is cached of a model's rows: which rows changed is not known."""
        for table in tables_of(model):
            self.add_table(table)

    def add_table(self, table: WatchedTable) -> None:
        """Add everything that is cached of a table's rows: which rows changed is not known."""
        self._add_everything_of(table)
        self.add_results(table)

    def _add_everything_of(self, table: WatchedTable) -> None:
        """Add all keys of rows of a table."""
        self._parts.begin_unit()
        for dependent in table.all_dependents():
            self.add_everything(dependent)

    def add_results(self, table: WatchedTable) -> None:
        """Add all results of queries over a table: which rows changed is not known."""
        name = table_name(table.model._meta.db_table)
        self._add_result_change(table, unknown_change(name, self.using))
        if namespace_function() is not None:  # of other namespaces only a pattern matches the shards
            prefixes = [prefixes_of_queries(each, name) for each in databases_of_write(self.using)]
            for alias in table.result_aliases:
                self._add_patterns(alias, prefixes, holds_tags=False)  # results are values

    def add_changed(self, dependent: Dependent, rows: Sequence[Row]) -> None:
        """Add the keys under which a dependent caches changed rows."""
        keys = {dependent.cache_alias: set(dependent.keys_of(rows, self.using))}
        self._add(keys)
        if dependent.is_strict:
            add_keys(self.strict_keys, keys)
        if dependent.writes_through:
            self._refills.setdefault(id(dependent), (dependent, set()))[1].update(row["pk"] for row in rows)

    def add_everything(self, dependent: Dependent) -> None:
        """Add all keys of a dependent: which rows changed is not known.

        Their nodes are searched for them after the commit, so strict keys are not in quarantine.
        """
        if ring_cache_of(dependent.cache_alias) is None:
            return
        of_all_rows = dependent.keys_of([{}], self.using)
        self._add({dependent.cache_alias: set(of_all_rows)})
        holds_tags = any(map(is_tag_key, of_all_rows))
        self._add_patterns(dependent.cache_alias, dependent.prefixes(self.using), holds_tags=holds_tags)

    def _add_patterns(self, alias: str, prefixes: Sequence[tuple[str, str]], *, holds_tags: bool) -> None:
        """Add all keys that begin with some prefixes."""
        cache = ring_cache_of(alias)
        if cache is None or not prefixes:
            return
        if not cache.can_clear:
            logger.error("what is cached in %r may be stale: its KEY_FUNCTION hides the keys", alias)
            return
        patterns = [pattern_key(cache.pattern_of(*parts), is_tag=holds_tags) for parts in prefixes]
        self._add({alias: {ANY_KEY, *patterns}})

    def _add(self, keys: KeysByAlias) -> None:
        """Add keys of changed rows."""
        add_keys(self.keys, keys)
        self._parts.add(keys)

    def add_keys(self, keys: Mapping[str, Iterable[bytes]]) -> None:
        """Add keys by cache alias. They are not those of changed rows, but may depend on any row."""
        add_keys(self.keys, keys)

    def add(self, other: PendingDeletes) -> None:
        """Add what another change of the same transaction invalidates."""
        add_keys(self.keys, other.keys)
        for part in other._parts.parts:
            self._parts.begin_unit()
            self._parts.add(part)
        self.changed_tables.update(other.changed_tables)
        add_keys(self.strict_keys, other.strict_keys)
        for dependent, pks in other._refills.values():
            self._refills.setdefault(id(dependent), (dependent, set()))[1].update(pks)

    def quarantine(self) -> None:
        """Put all strict keys in quarantine, before the commit; those of one alias in one scatter.

        Raises:
            NodeUnavailableError: A node did not confirm; the transaction must not be committed. The
                quarantines that were placed have ended, as far as their nodes answer.
        """
        try:
            for alias, keys in self.strict_keys.items():
                self._quarantine(alias, keys)
        except NodeUnavailableError:
            self.end_quarantines()
            raise

    def _quarantine(self, alias: str, keys: set[bytes]) -> None:
        new = keys - self.quarantined.get(alias, set())
        cache = ring_cache_of(alias)
        if new and cache is not None:
            add_keys(self.quarantined, {alias: new})  # a node may place it although its reply is lost
            cache.client.run(protocol.quarantine(cache.client.context, list(new), self._token))

    def delete(self) -> KeysByAlias:
        """Delete the values, end the quarantines, then delete the tags.

        Does not raise when a node fails: the data is committed, and the caller must learn that.

        Returns:
            The keys that a node did not confirm. If there are any, all keys must stay pending: tags
            that were confirmed are deleted again after the values.
        """
        values, tags = values_and_tags(self.keys)
        unconfirmed = delete_together(
            {alias: keys - self.quarantined.get(alias, set()) for alias, keys in values.items()}
        )
        add_keys(unconfirmed, self.end_quarantines())
        add_keys(unconfirmed, delete_together(tags))
        return unconfirmed

    def end_quarantines(self) -> KeysByAlias:
        """Take this writer's token out of its keys; return the keys that a node did not confirm."""
        unconfirmed: KeysByAlias = {}
        quarantined, self.quarantined = self.quarantined, {}
        for alias, keys in quarantined.items():
            cache = ring_cache_of(alias)
            if cache is not None:
                operation = protocol.unquarantine(cache.client.context, list(keys), self._token)
                add_keys(unconfirmed, {alias: cache.client.run(operation)})
        return unconfirmed

    def leave_quarantines(self) -> None:
        """Let the quarantines expire by themselves: whether the transaction was committed is not known.

            1. writer    quarantines the keys, sends COMMIT, and loses its connection
            2. reader    loads the old row, and does not fill it
            3. database  finishes the COMMIT, for which it had waited for a replica
            4. reader    loads the new row
            5. relay     sees the outbox row, which 3 has committed too, and deletes the keys

        If the writer ended the quarantines after 1, a reader could fill the old row before 3.
        """
        self.quarantined = {}

    def refill(self) -> None:
        """Load changed rows of dependents that write through; a failure is logged and leaves a miss."""
        for dependent, pks in self._refills.values():
            try:
                dependent.refill(pks)
            except Exception as error:  # the data is committed: nothing may raise into the caller now
                raise_interrupt(error)
                logger.exception("a row could not be loaded again after it was written")
