"""Deletes that a node missed are kept in the outbox: no crash loses them, and every process sees them."""

from __future__ import annotations

import logging

from django.db import connections, router

from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.invalidation.outbox import has_outbox, keys_in, owing
from cachebackend.invalidation.outbox_writer import KEEP_SECONDS, outbox_writer
from cachebackend.models import OutboxRow
from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedKeys
from cachebackend.registry import prepare_ring_clients

__all__ = ["ClientOutbox", "watch_missed"]

logger = logging.getLogger("cachebackend")


def watch_missed() -> None:
    """Have every ring client keep what its nodes miss in the outbox."""
    prepare_ring_clients(_prepare)


def _prepare(client: RingClient) -> None:
    client.outbox = ClientOutbox(client)


class ClientOutbox:
    """What the outbox knows of the nodes of one client.

    Args:
        client: It may be shared by aliases that differ in their keys' prefix only.
    """

    def __init__(self, client: RingClient) -> None:
        self._client = client

    def keep(self, node: str, owed: MissedKeys) -> bool:
        """Keep what a node is owed, committed when this returns; return whether that is certain."""
        keys = list(owed.keys)
        # Their nodes are the same, so any of the aliases will do for keys
        aliases = self._aliases() if owed.is_all_keys else self._aliases()[:1]
        if not aliases:
            return False  # the settings have changed, and nobody reads by them any more
        try:
            if not has_outbox(router.db_for_write(OutboxRow)):
                message = "no database has the outbox's table; see check ringcache.W003"
                raise LookupError(message)
            row = owing(dict.fromkeys(aliases, keys), node=node if owed.is_all_keys else "")
            outbox_writer().write(row).result(KEEP_SECONDS)
        except Exception as error:  # noqa: BLE001  # the memory has them yet
            self._client.context.log_limited(
                "deletes_unkept",
                "what a node missed is kept in memory only, and lost with this process: %r",
                error,
            )
            return False
        return True

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        """Return what any process owes a node; everything, if that is more than ``limit`` keys.

        Called in the thread of a probe, of whose connections it leaves none open.
        """
        try:
            return self.find(node, limit)
        finally:
            connections.close_all()

    def find(self, node: str, limit: float) -> MissedKeys:
        """Return the same, by the connections of the calling thread."""
        nodes = [at for at, each in enumerate(self._client.nodes) if each.endpoint == node]
        may_hold, aliases = self._client.context.may_hold, set(self._aliases())
        keys: set[bytes] = set()
        for using in filter(has_outbox, connections):
            for row in OutboxRow.objects.using(using).filter(node__in=("", node)).iterator():
                owed = keys_in(row)
                for alias in aliases & owed.keys():
                    keys.update(key for key in owed[alias] if any(may_hold(at, key) for at in nodes))
                    if row.node or len(keys) > limit:
                        return ALL_KEYS
        return MissedKeys(tuple(sorted(keys)))

    def _aliases(self) -> list[str]:
        """Return the aliases that share the client."""
        return [alias for alias in ring_aliases() if ring_options(alias) == self._client.context.options]
