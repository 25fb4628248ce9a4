"""Keys of rows that a strict write is changing: read from the source, filled by nobody.

    1. writer    quarantines the key; its node confirms, or the write fails
    2. writer    UPDATE, COMMIT
    3. writer    takes its token out; the last writer's token deletes the key

Between 1 and 3 no reader is given a lease, so nothing from before the commit can be in the
cache after it, even if the writer dies at any point: what is left is a quarantine, which
lapses, and which readers go round.

Nobody but its writer takes a quarantine away before that, whoever owes the key a delete: the
relay, which acts on the writer's own intent while the statement waits for a lock; a replay;
a clear; another writer. It would be wrong:

    1. writer    quarantines the key; its UPDATE waits
    2. relay     deletes the key, and the quarantine with it
    3. reader    leases the key, loads the old row, fills it
    4. writer    UPDATE, COMMIT; the node is cut off by now, so it is not told; acknowledged
    5. reader    is not cut off: hits the old row

Nor is it needed. Where a quarantine stands there is nothing from before, and what is filled after
its end is loaded after its end, so after the commit that the delete is owed for. A delete that
meets one is confirmed. Of a writer that died:

    1. writer    owes its intent; quarantines the key; dies, before its COMMIT or after it
    2. relay     meets the quarantine: confirmed, but an intent is kept, and acted on again
    3. node      lets the quarantine lapse, ``quarantine_timeout`` after it was placed
    4. reader    leases the key, and loads what is committed by then
    5. database  commits the statement, if that went on without its client
    6. relay     deletes what 4 filled, and drops the intent when no statement can still run

Source: Ghandeharizadeh et al., "Strong Consistency in Cache Augmented SQL Systems",
Middleware '14 (the IQ framework), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.protocol.context import Context

__all__ = ["quarantine", "unquarantine"]

_QUARANTINE = Script(__package__, "quarantine")
_UNQUARANTINE = Script(__package__, "unquarantine")


def quarantine(context: Context, keys: Sequence[bytes], token: bytes) -> Operation[None]:
    """Keep keys from being filled until their writer is done, or ``quarantine_timeout`` has passed.

    Raises:
        NodeUnavailableError: A node did not confirm it; the write must not be made.
    """
    context.drop_near(keys)
    life_ms = int(context.options.quarantine_timeout * 1000)
    replies = yield Send(
        [(node, _QUARANTINE.call([key], token, life_ms)) for key in keys for node in context.owners(key)]
    )
    failures = [reply for reply in replies if isinstance(reply, RingCacheError)]
    if failures:
        context.counters.cell.node_failures += len(failures)
        message = f"a strict write needs the owner of each of its keys: {failures[0]}"
        raise NodeUnavailableError(message) from failures[0]


def unquarantine(context: Context, keys: Sequence[bytes], token: bytes) -> Operation[list[bytes]]:
    """Take a writer's token out of keys; return those whose node did not confirm it."""
    asked = [(node, key) for key in keys for node in context.owners(key)]
    replies: list[Reply] = yield Send([(node, _UNQUARANTINE.call([key], token)) for node, key in asked])
    failed = {
        key for (_, key), reply in zip(asked, replies, strict=True) if isinstance(reply, RingCacheError)
    }
    return [key for key in keys if key in failed]
