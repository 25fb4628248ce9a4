"""Quarantine: while a strict write changes a row, its keys are read from the source and never filled.

    1. writer    UPDATE; quarantines the key; its node confirms, or the write fails
    2. writer    COMMIT
    3. writer    removes its token; the last writer's token deletes the key

Between 1 and 3 no reader gets a lease, so no value from before the commit can be cached after it,
even if the writer dies at any point: then the quarantine expires, and readers bypass it until then.

Only its writer removes a quarantine before that. A delete by another process never does: not the
relay, which acts on an earlier change of the same row; not a replay, a clear, or another writer. It
would be wrong:

    1. writer    quarantines the key; its COMMIT is under way
    2. relay     deletes the key, and the quarantine with it
    3. reader    leases the key, loads the old row, fills it
    4. writer    its COMMIT returns; its node is cut off by now and gets no delete; acknowledged
    5. reader    is not cut off: hits the old row

Such a delete is not needed either. A quarantined key holds nothing from before, and a fill after
the quarantine ends is loaded after that end, so after the commit that the delete follows. A delete
that meets a quarantine is confirmed. For a writer that died:

    1. writer    writes its outbox row; quarantines the key; sends its COMMIT, and dies
    2. node      the quarantine expires, ``quarantine_timeout`` after it was placed
    3. reader    leases the key, and loads what is committed by then
    4. database  finishes the COMMIT, if it has waited for a replica until now
    5. relay     sees the outbox row, which 4 committed too, and deletes what 3 filled

If 4 comes first, the relay's delete meets the quarantine, and every later fill loads the new row.

Every quarantine expires. One that does not was stored by another program: it is treated as no record,
and the first delete, write or reader that meets it deletes it.

Source: Ghandeharizadeh et al., "Strong Consistency in Cache Augmented SQL Systems",
Middleware '14 (the IQ framework), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.replies import integer, text

__all__ = ["quarantine", "unquarantine"]

_QUARANTINE = Script(__package__, "quarantine", "is_quarantined", reply=text, is_promise=True)
_UNQUARANTINE = Script(__package__, "unquarantine", reply=integer)


def quarantine(context: Context, keys: Sequence[bytes], token: bytes) -> Operation[None]:
    """Prevent fills of keys until their writer is done, or ``quarantine_timeout`` has passed.

    Raises:
        NodeUnavailableError: A node did not confirm; the row must not be written.
    """
    context.drop_near(keys)
    ttl_ms = b"%d" % int(context.options.quarantine_timeout * 1000)
    replies = yield Send(
        [(node, _QUARANTINE.call([key], token, ttl_ms)) for key in keys for node in context.owners(key)]
    )
    failures = [reply for reply in replies if isinstance(reply, RingCacheError)]
    if failures:
        context.counters.cell.node_failures += len(failures)
        message = f"a strict write needs a confirmation from the owner of each of its keys: {failures[0]}"
        raise NodeUnavailableError(message) from failures[0]


def unquarantine(context: Context, keys: Sequence[bytes], token: bytes) -> Operation[list[bytes]]:
    """Remove a writer's token from keys; return the keys whose node did not confirm."""
    asked = [(node, key) for key in keys for node in context.owners(key)]
    replies: list[Reply] = yield Send([(node, _UNQUARANTINE.call([key], token)) for node, key in asked])
    failed = {
        key for (_, key), reply in zip(asked, replies, strict=True) if isinstance(reply, RingCacheError)
    }
    return [key for key in keys if key in failed]
