"""What stands at a key, who owns it, and what is owed of it; nothing is ever unpickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.db import Error, connections

from cachebackend import protocol
from cachebackend.backend import RingCache, ring_cache
from cachebackend.client import RingClient
from cachebackend.clock import TOKEN_BYTES
from cachebackend.codec import Codec, Kind
from cachebackend.codec.record import CodecId
from cachebackend.errors import RingCacheError
from cachebackend.invalidation.outbox import has_outbox, keys_of_row
from cachebackend.models import OutboxRow
from cachebackend.monitoring.formatting import duration, moment
from cachebackend.ring import slot_of

__all__ = ["KeyFigures", "key_figures"]

#: Outbox rows that are looked through at most, the newest first.
MOST_ROWS = 20_000
#: Characters of a value that are shown at most.
MOST_SHOWN = 10_000


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """Who owns a key, and what it holds.

    Attributes:
        key: As Django calls it.
        made: As the nodes know it.
        owner: The name of its node.
        slot: Its slot.
        found: What stands there; None if the node did not say.
        codec: What wrote its payload, in words.
        age: For how long it stands, in words, as far as that can be told.
        holders: The tokens of who holds the lease, or of the writers of a quarantine.
        is_near: Whether this process has a copy; None: it keeps none.
        owed: The invalidations of the key that are in the outbox, in words, the newest first.
        value: The value in words, if it may be shown and can be without unpickling.
        error: Why nothing is known.
    """

    key: str
    made: str
    owner: str
    slot: int
    found: protocol.Inspected | None = None
    codec: str = ""
    age: str = ""
    holders: list[str] = field(default_factory=list)
    is_near: bool | None = None
    owed: list[str] = field(default_factory=list)
    value: str | None = None
    error: str = ""


def key_figures(alias: str, key: str, version: int | None, *, shows_value: bool) -> KeyFigures:
    """Return who owns a key and what it holds; a value only if asked for, and never by unpickling."""
    cache = ring_cache(alias)
    client = cache.client
    made = cache.key_bytes(key, version)
    known: dict[str, Any] = {
        "key": key,
        "made": made.decode("utf-8", "replace"),
        "owner": client.ring.names[client.ring.owner(made)],
        "slot": slot_of(made),
        "is_near": client.has_near_copy(made),
        "owed": _owed(alias, client, made),
    }
    try:
        found = client.run(protocol.inspect(client.context, made))
    except RingCacheError as error:
        return KeyFigures(**known, error=str(error))
    return KeyFigures(
        **known,
        found=found,
        codec="" if found.codec is None else _codec_name(found.codec),
        age=_age(cache, found),
        holders=_holders(found),
        value=_value(client.context.codec, found) if shows_value else None,
    )


def _codec_name(codec: int) -> str:
    try:
        return CodecId(codec).name.lower().replace("_", " ")
    except ValueError:
        return f"codec {codec:#04x}, which is not known here"


def _age(cache: RingCache, found: protocol.Inspected) -> str:
    """Return how old a record is, in words, by what it was to live and lives yet: it has no date."""
    options = cache.client.context.options
    lives = {"lease": options.lease_timeout, "quarantine": options.quarantine_timeout}
    if found.kind in lives and found.ttl is not None:
        return duration(lives[found.kind] - found.ttl)
    left = found.refresh.fresh_until - cache.client.context.clock.now() if found.refresh else found.ttl
    timeout = cache.default_timeout
    if left is None or timeout is None or not 0 <= left <= timeout:
        return ""
    return f"{duration(timeout - left)}, if it was kept for the alias' TIMEOUT of {timeout:g} s"


def _holders(found: protocol.Inspected) -> list[str]:
    digits, tokens = 2 * TOKEN_BYTES, found.token or ""
    return [tokens[at : at + digits] for at in range(0, len(tokens), digits)]


def _value(codec: Codec, found: protocol.Inspected) -> str | None:
    if found.kind not in {Kind.INTEGER.name.lower(), "value", "stale"}:
        return None
    if found.codec in {CodecId.PICKLE, CodecId.SIGNED_PICKLE}:
        return "(a pickle, which this page does not load)"
    try:
        return repr(codec.decode(found.record))[:MOST_SHOWN]
    except RingCacheError as error:
        return f"(cannot be read: {error})"


def _owed(alias: str, client: RingClient, key: bytes) -> list[str]:
    """Return what the outboxes have of a key, in words; that they cannot be seen, or not whole, too."""
    holders = {node.endpoint for at, node in enumerate(client.nodes) if client.context.may_hold(at, key)}
    told = []
    for using in filter(has_outbox, connections):
        try:
            rows = list(OutboxRow.objects.using(using).order_by("-pk")[: MOST_ROWS + 1])
        except Error as error:
            told.append(f"the outbox of database {using!r} cannot be seen: {error}")
            continue
        for row in rows[:MOST_ROWS]:
            owed = keys_of_row(row)
            if alias in owed and (key in owed[alias] or row.node in holders):
                told.append(_in_words(row))
        if len(rows) > MOST_ROWS:
            told.append(f"database {using!r} owes more than the {MOST_ROWS:,} rows that were looked through")
    return told


def _in_words(row: OutboxRow) -> str:
    kept = ", noted before a statement, and kept a minute" if row.is_intent else ""
    return f"to be deleted, since {moment(row.created.timestamp())}{kept}"
