"""One key: which node owns it, which record it holds, which deletes of it are pending.

A text that no value has as its key may name a tag, or a shard of the registry of shapes. No value is ever
unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cachebackend import protocol
from cachebackend.backend import RingCache, ring_cache
from cachebackend.backend.query_names import is_shard_name
from cachebackend.backend.tag_names import names_of_text
from cachebackend.clock import TOKEN_BYTES
from cachebackend.codec import Codec, Kind
from cachebackend.codec.record import CodecId
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.monitoring.formatting import duration
from cachebackend.monitoring.outbox import pending_of_key
from cachebackend.monitoring.tokens import ShapeFigures, TokenFigures, shapes_of_shard, tokens_of_value

__all__ = ["KeyFigures", "key_figures"]

#: The most characters of a value that are shown.
MAX_SHOWN_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """The owner of a key, and the record that it holds.

    Attributes:
        key: The key as it is given to ``cache.get()``; empty for a tag or a shard.
        node_key: The key as the nodes store it.
        owner: The name of its node.
        slot: Its slot.
        record: The record; None if the node did not answer.
        codec: The name of the codec of its payload.
        age: How old the record is, as text, as far as that can be known.
        tokens: The token of a lease or tag, or those of the writers of a quarantine, in hexadecimal.
        depends_on: The tags and shapes that the value depends on.
        shapes: The shapes in a shard of the registry.
        is_near: Whether this process has a copy; None if the near cache is off.
        pending: A line for each pending delete of the key, the newest first.
        value: The value as text, if it may be shown and can be read without unpickling.
        error: Why the record is not known.
    """

    key: str
    node_key: str
    owner: str
    slot: int
    record: protocol.telemetry.Inspected | None = None
    codec: str = ""
    age: str = ""
    tokens: list[str] = field(default_factory=list)
    depends_on: list[TokenFigures] = field(default_factory=list)
    shapes: list[ShapeFigures] = field(default_factory=list)
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
        key: The key as it is given to ``cache.get()``, the key on the nodes, or the name of a tag.
        version: Its version; None: the alias' own.
        shows_value: Whether to decode its value.
        shows_pending: Whether to search the outbox, which reads up to 20,000 rows of each database.
    """
    cache = ring_cache(alias)
    client = cache.client
    key, node_key, record = _find(cache, key, version)
    known: dict[str, Any] = {
        "key": key,
        "node_key": node_key.decode("utf-8", "replace"),
        "owner": client.ring.names[client.ring.owner(node_key)],
        "slot": client.ring.slot_of(node_key),
        "is_near": client.has_near_copy(node_key),
        "pending": pending_of_key(alias, client, node_key) if shows_pending else [],
    }
    if isinstance(record, RingCacheError):
        return KeyFigures(**known, error=str(record))
    return KeyFigures(
        **known,
        record=record,
        codec="" if record.codec is None else _codec_name(record.codec),
        age=_age(cache, record),
        tokens=_tokens(record),
        depends_on=tokens_of_value(client, record) if record.tags else [],
        shapes=shapes_of_shard(node_key, record),
        value=_value(client.context.codec, node_key, record) if shows_value else None,
    )


def _find(
    cache: RingCache, key: str, version: int | None
) -> tuple[str, bytes, protocol.telemetry.Inspected | RingCacheError]:
    """Return what a text names: its key, the key on the nodes, and the record or the error of its node."""
    first: tuple[str, bytes, protocol.telemetry.Inspected | RingCacheError] | None = None
    for found_key, node_key in _possible_keys(cache, key, version):
        is_shard = not found_key and is_shard_name(key)
        inspect = protocol.telemetry.inspect_shard if is_shard else protocol.telemetry.inspect
        try:
            record: Any = cache.client.run(inspect(cache.client.context, node_key))
        except RingCacheError as error:
            record = error
        found = found_key, node_key, record
        if isinstance(record, RingCacheError) or record.kind != "nothing":
            return found
        first = first or found
    assert first is not None  # noqa: S101  # there is at least one key
    return first


def _possible_keys(cache: RingCache, key: str, version: int | None) -> Iterator[tuple[str, bytes]]:
    """Yield the keys that a text may mean: as a key, as the key on the nodes, and as the name of a tag."""
    yield key, cache.key_bytes(key, version)
    prefix = f"{cache.key_prefix}:{cache.version if version is None else version}:"
    if cache.has_plain_keys and key.startswith(prefix):
        yield key.removeprefix(prefix), cache.key_bytes(key.removeprefix(prefix), version)
    name = key.removeprefix(prefix)
    for tag in cache.many_tag_bytes([*names_of_text(key), name]):
        yield "", tag


def _codec_name(codec: int) -> str:
    try:
        return CodecId(codec).name.lower().replace("_", " ")
    except ValueError as error:
        raise_interrupt(error)
        return f"unknown codec {codec:#04x}"


def _age(cache: RingCache, record: protocol.telemetry.Inspected) -> str:
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


def _tokens(record: protocol.telemetry.Inspected) -> list[str]:
    digits, tokens = 2 * TOKEN_BYTES, record.token or ""
    return [tokens[start : start + digits] for start in range(0, len(tokens), digits)]


def _value(codec: Codec, key: bytes, record: protocol.telemetry.Inspected) -> str | None:
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
