"""The outbox: deletes that nodes have not confirmed yet, in the database whose change caused them.

A transaction that makes keys wrong commits one row with these keys, together with its data or
not at all. After the commit the writing process deletes the keys on the nodes, and then the row.
If the process dies in between, or a node does not confirm, the row remains, and the relay
deletes the keys again until every node has confirmed.

A statement in autocommit gets a transaction of its own, which its row is part of. (Processes of an
earlier release write the row before the statement instead, as an intent. The relay keeps an
intent for ``INTENT_SECONDS`` and deletes its keys in every round.)

Other deletes that a node misses get rows too (``ClientOutbox``), so that no crash loses them and
every process sees them. Such a row holds keys; or, for a node that missed too many keys or a
clear, the node's endpoint, and means every key of the aliases on that node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial

from django.db import DatabaseError, connections, router

from cachebackend.backend import find_ring_cache
from cachebackend.backend.keys import change_keys, pattern_of_key
from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.invalidation.outbox_keys import pending_rows, read_row
from cachebackend.invalidation.outbox_pages import paged
from cachebackend.invalidation.outbox_table import asking_again, has_outbox, may_have_outbox
from cachebackend.invalidation.outbox_writer import outbox_writer
from cachebackend.invalidation.shape_registry import wrong_keys_at
from cachebackend.invalidation.stored_keys import pack_keys
from cachebackend.invalidation.watched import KeysByAlias, add_keys
from cachebackend.models import OutboxRow
from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedKeys
from cachebackend.registry import prepare_ring_clients

__all__ = [
    "INTENT_SECONDS",
    "ClientOutbox",
    "connect_outbox",
    "delete_rows",
    "new_row",
    "write_row",
]

#: Seconds; longer than any statement may run.
INTENT_SECONDS = 60.0
#: Seconds that a probe waits for the outboxes.
READ_TIMEOUT = 3.0
#: Seconds after which a node does not wait any longer for an outbox that cannot be read.
UNREAD_SECONDS = 10.0


# Rows


def new_row(keys: Mapping[str, Iterable[bytes]], *, node: str = "") -> OutboxRow:
    """Return an unsaved row.

    Args:
        keys: The keys to delete, by cache alias; with a ``node``, the aliases alone matter.
        node: The endpoint of a node on which every key of the aliases must be deleted.
    """
    return OutboxRow(keys=pack_keys(keys), node=node)


def write_row(using: str, keys: Mapping[str, Iterable[bytes]], *, node: str = "") -> int | None:
    """Insert a row, in the open transaction if there is one; arguments as for ``new_row``.

    Returns:
        The row's primary key; None if there is nothing to delete or the database has no outbox.
    """
    if not node:
        keys = {alias: group for alias, group in keys.items() if group}
    if not keys or not has_outbox(using):
        return None
    row = new_row(keys, node=node)
    with asking_again(using):
        if connections[using].vendor == "postgresql":
            return _insert(using, row)
        row.save(using=using)
    return row.pk


def _insert(using: str, row: OutboxRow) -> int:
    """Insert a row that holds keys, and return its primary key; each write of a cached row pays for this."""
    quote = connections[using].ops.quote_name
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {quote(row._meta.db_table)} (keys, node, label, is_intent) "
            f"VALUES (%s, %s, '', false) RETURNING {quote(str(row._meta.pk.column))}",
            [bytes(row.keys), row.node],
        )
        [pk] = cursor.fetchone()
    return int(pk)


def delete_rows(using: str, *pks: int | None) -> None:
    """Delete rows whose keys every node has confirmed; None is a row that was not written."""
    if written := [pk for pk in pks if pk is not None]:
        rows = OutboxRow.objects.using(using).filter(pk__in=written)
        rows._raw_delete(using)  # unlike ``delete`` it begins no transaction


# Deletes that a node missed


def connect_outbox() -> None:
    """Give every ring client of this process an outbox."""
    prepare_ring_clients(_give_outbox)


def _give_outbox(client: RingClient) -> None:
    client.outbox = ClientOutbox(client)


class ClientOutbox:
    """The outbox as one client uses it: the deletes that its nodes missed.

    Args:
        client: Aliases that differ only in the prefix of their keys share a client.
    """

    def __init__(self, client: RingClient) -> None:
        self._client = client
        #: The databases that could not be read last time, and since when (monotonic seconds).
        self._unread: dict[str, float] = {}

    def keep(self, node: str, missed: MissedKeys) -> bool:
        """Store the deletes that a node missed; return whether they are committed.

        Args:
            node: The node's endpoint.
            missed: The keys.
        """
        # The aliases have the same nodes, so keys may be stored under any of them
        aliases = self._aliases() if missed.is_all_keys else self._aliases()[:1]
        if not aliases:
            return False  # the settings have changed, and nothing reads with the old ones any more
        try:
            if not may_have_outbox(router.db_for_write(OutboxRow)):
                message = "no database has the outbox's table; see check ringcache.W003"
                raise LookupError(message)
            row = new_row(dict.fromkeys(aliases, missed.keys), node=node if missed.is_all_keys else "")
            timeout = self._client.context.options.outbox_timeout
            outbox_writer().write(row, timeout).result(timeout)
        except Exception as error:  # noqa: BLE001  # the deletes are still in this process' memory
            raise_interrupt(error)
            self._client.context.log_limited(
                "deletes_unkept",
                "the deletes that a node missed are kept in memory only, and lost with this process: %r",
                error,
            )
            return False
        return True

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        """Return the pending deletes of a node that any process wrote.

        What a database holds that cannot be read is not known. If it stays so for ``UNREAD_SECONDS``,
        the node is cleared instead: then it has missed nothing, and need not wait for the database.

        Args:
            node: The node's endpoint.
            limit: With more keys than this, all keys of the node are returned as missed. Infinite:
                the node's keys cannot be cleared.

        Raises:
            DatabaseError: A database cannot be read.
        """
        asked = ask_databases(partial(self._missed_in, node=node, limit=limit), READ_TIMEOUT)
        now = self._client.context.clock.monotonic()
        self._unread = {using: self._unread.get(using, now) for using in asked.errors}
        if asked.errors:
            texts = [f"database {using!r}: {error}" for using, error in asked.errors.items()]
            error = DatabaseError(f"the outbox cannot be read in {'; '.join(texts)}")
            if limit == math.inf or any(now - since < UNREAD_SECONDS for since in self._unread.values()):
                raise error
            self._client.context.log_limited(
                "outbox_unread", "a returning node is cleared, because %s", error
            )
            return ALL_KEYS
        if any(missed.is_all_keys for missed in asked.found.values()):
            return ALL_KEYS
        keys = {key for missed in asked.found.values() for key in missed.keys}
        return MissedKeys(tuple(sorted(keys))) if len(keys) <= limit else ALL_KEYS

    def _missed_in(self, using: str, *, node: str, limit: float) -> MissedKeys:
        """Return the pending deletes of a node that one database holds; arguments as for ``missed_by``."""
        if not has_outbox(using):
            return MissedKeys()
        nodes = [index for index, each in enumerate(self._client.nodes) if each.endpoint == node]
        may_hold, aliases = self._client.context.may_hold, set(self._aliases())
        missed: set[bytes] = set()
        changes: KeysByAlias = {}
        for row in paged(pending_rows(using).filter(node__in=("", node))):
            keys = read_row(row).keys
            for alias in aliases & keys.keys():
                of_changes = change_keys(keys[alias])
                add_keys(changes, {alias: of_changes})
                plain = keys[alias] - of_changes
                missed.update(key for key in plain if any(may_hold(index, key) for index in nodes))
                has_pattern = any(pattern_of_key(key) is not None for key in plain)
                if row.node or has_pattern or len(missed) > limit:
                    return ALL_KEYS
        for alias, group in changes.items():
            cache = find_ring_cache(alias)
            wrong = set() if cache is None or not group else wrong_keys_at(cache, group, nodes)
            if wrong is None:
                return ALL_KEYS
            missed |= wrong
        return MissedKeys(tuple(missed))

    def _aliases(self) -> list[str]:
        """Return the aliases that share the client."""
        return [alias for alias in ring_aliases() if ring_options(alias) == self._client.context.options]
