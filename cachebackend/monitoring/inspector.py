"""One key: which node owns it, which record it holds, which deletes of it are pending.

No value is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cachebackend import protocol
from cachebackend.backend import RingCache, ring_cache
from cachebackend.clock import TOKEN_BYTES
from cachebackend.codec import Codec, Kind
from cachebackend.codec.record import CodecId
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.monitoring.formatting import duration
from cachebackend.monitoring.outbox import pending_of_key

__all__ = ["KeyFigures", "key_figures"]

#: The most characters of a value that are shown.
MAX_SHOWN_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """The owner of a key, and the record that it holds.

    Attributes:
        key: The key as it is given to ``cache.get()``.
        node_key: The key as the nodes store it.
        owner: The name of its node.
        slot: Its slot.
        record: The record; None if the node did not answer.
        codec: The name of the codec of its payload.
        age: How old the record is, as text, as far as that can be known.
        tokens: The token of a lease, or those of the writers of a quarantine, in hexadecimal.
        is_near: Whether this process has a copy; None if the near cache is off.
        pending: A line for each pending delete of the key, the newest first.
        value: The value as text, if it may be shown and can be read without unpickling.
        error: Why the record is not known.
    """

    key: str
    node_key: str
    owner: str
    slot: int
    record: protocol.Inspected | None = None
    codec: str = ""
    age: str = ""
    tokens: list[str] = field(default_factory=list)
    is_near: bool | None = None
    pending: list[str] = field(default_factory=list)
    value: str | None = None
    error: str = ""


def key_figures(
    alias: str, key: str, version: int | None, *, shows_value: bool, shows_pending: bool = True
) -> KeyFigures:
    """Return the figures of a key.

    Args:
        alias: The cache alias.
        key: The key as it is given to ``cache.get()``.
        version: Its version; None: the alias' own.
        shows_value: Whether to decode its value.
        shows_pending: Whether to search the outbox, which reads up to 20,000 rows of each database.
    """
    cache = ring_cache(alias)
    client = cache.client
    node_key = cache.key_bytes(key, version)
    known: dict[str, Any] = {
        "key": key,
        "node_key": node_key.decode("utf-8", "replace"),
        "owner": client.ring.names[client.ring.owner(node_key)],
        "slot": client.ring.slot_of(node_key),
        "is_near": client.has_near_copy(node_key),
        "pending": pending_of_key(alias, client, node_key) if shows_pending else [],
    }
    try:
        record = client.run(protocol.inspect(client.context, node_key))
    except RingCacheError as error:
        return KeyFigures(**known, error=str(error))
    return KeyFigures(
        **known,
        record=record,
        codec="" if record.codec is None else _codec_name(record.codec),
        age=_age(cache, record),
        tokens=_tokens(record),
        value=_value(client.context.codec, node_key, record) if shows_value else None,
    )


def _codec_name(codec: int) -> str:
    try:
        return CodecId(codec).name.lower().replace("_", " ")
    except ValueError as error:
        raise_interrupt(error)
        return f"unknown codec {codec:#04x}"


def _age(cache: RingCache, record: protocol.Inspected) -> str:
    """Return the age of a record, as text: its timeout minus what remains of it, for it holds no date."""
    options = cache.client.context.options
    timeouts = {"lease": options.lease_timeout, "quarantine": options.quarantine_timeout}
    if record.kind in timeouts and record.ttl is not None:
        return duration(timeouts[record.kind] - record.ttl)
    remaining = (
        record.refresh.fresh_until - cache.client.context.clock.now() if record.refresh else record.ttl
    )
    timeout = cache.default_timeout
    if remaining is None or timeout is None or not 0 <= remaining <= timeout:
        return ""
    return f"{duration(timeout - remaining)}, if it was stored with the alias' TIMEOUT of {timeout:g} s"


def _tokens(record: protocol.Inspected) -> list[str]:
    digits, tokens = 2 * TOKEN_BYTES, record.token or ""
    return [tokens[start : start + digits] for start in range(0, len(tokens), digits)]


def _value(codec: Codec, key: bytes, record: protocol.Inspected) -> str | None:
    if record.kind not in {Kind.INTEGER.name.lower(), "value", "stale"}:
        return None
    if record.codec in {CodecId.PICKLE, CodecId.SIGNED_PICKLE}:
        return "(a pickle, which this page does not load)"
    try:
        return repr(codec.decode(record.record, key))[:MAX_SHOWN_CHARACTERS]
    except RingCacheError as error:
        return f"(cannot be decoded: {error})"
    except (ValueError, RecursionError) as error:  # a huge integer, for example
        raise_interrupt(error)
        return f"(cannot be shown: {error})"
