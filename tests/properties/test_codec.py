from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cachebackend.codec import (
    CODECS,
    COMPRESSORS,
    Codec,
    Refresh,
    fresh_until_of,
    kind_of,
    tags_of_block,
)
from cachebackend.errors import CodecError, RecordError

KEY = b"shop:1:k"
decode = partial(Codec("auto").decode, key=KEY)

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
    st.decimals(allow_nan=False), st.uuids(), st.dates(), st.timedeltas(),
    st.datetimes(), st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.timezones()),
    st.times(), st.times(timezones=st.just(UTC)),
)  # fmt: skip
HASHABLE = st.one_of(st.integers(), st.text(), st.binary(), st.tuples(st.integers(), st.text()))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.dictionaries(st.integers(), inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)


def types_of(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value), [types_of(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(types_of(key), types_of(item)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), {type(item) for item in value}
    return type(value), getattr(value, "fold", None), type(getattr(value, "tzinfo", None))


@settings(max_examples=400, deadline=None)
@given(VALUES)
def test_any_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    """Through ``auto``, and however it is nested."""
    back = decode(Codec("auto").encode(value, KEY))
    assert back == value
    assert types_of(back) == types_of(value)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda rest: b"Vm\0" + rest)))
def test_random_bytes_are_a_value_or_a_record_error(record: bytes) -> None:
    """A node may hold any bytes; no other error than RecordError is raised."""
    with contextlib.suppress(RecordError):
        decode(record)
    with contextlib.suppress(RecordError):
        kind_of(record)


SECRETS = (b"new", b"old")


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(sorted(COMPRESSORS)), st.sampled_from(["auto", "signed-pickle", "pickle"]))
def test_any_value_comes_back_from_every_compressor(value: Any, compressor: str, name: str) -> None:
    """Whichever codec wrote it, and with a reader of any codec that loads pickles."""
    record = Codec(name, compressor, 0, lambda: SECRETS).encode(value, KEY)
    for reader in ("auto", "pickle"):
        assert Codec(reader, secrets=lambda: SECRETS).decode(record, KEY) == value


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(["json", "msgpack"]))
def test_a_codec_without_pickle_holds_a_value_exactly_or_refuses_it(value: Any, name: str) -> None:
    """No value comes back as another value."""
    with contextlib.suppress(CodecError):
        back = Codec(name).decode(Codec(name).encode(value, KEY), KEY)
        assert back == value
        assert types_of(back) == types_of(value)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(set(CODECS) - {"pickle"})),
    st.sampled_from(b"mpsjk"),
    st.sampled_from([0x00, 0x10, 0x20, 0x40, 0x70, 0x01, 0x02, 0x80]),
    st.binary(max_size=80),
)
def test_hostile_bytes_are_a_value_or_a_record_error(name: str, codec: int, flags: int, rest: bytes) -> None:
    """With the codec and flags of every codec and compressor."""
    with contextlib.suppress(RecordError):
        Codec(name, secrets=lambda: SECRETS).decode(b"V%c%c%b" % (codec, flags, rest), KEY)


SEED_VALUES = (
    "a" * 50,
    {"a": [1, 2, 3]},
    None,
    [1.5] * 40,
    17,
    (1, ("x" * 600,)),
    {1: 2},
    datetime(2026, 1, 1),
)
#: The most bytes that a damaged record may become when it is decompressed.
MAX_BYTES = 100_000


def seeds() -> list[bytes]:
    """Return valid records of each codec and compressor, with and without blocks."""
    found = [b"L" + bytes(16), b"Q" + bytes(32), b"T" + bytes(16), b"5", b"9" * 30]
    for name in CODECS:
        for compressor in ("none", *COMPRESSORS):
            codec = Codec(name, compressor, 5, lambda: SECRETS)
            for value in SEED_VALUES:
                with contextlib.suppress(CodecError):
                    found.append(codec.encode(value, KEY))
                    found.append(codec.encode(value, KEY, Refresh(2.0, 0.5), {b"tag": bytes(16)}))
    return found


SEEDS = seeds()
#: Bits to flip, the number of bytes to keep, and bytes to append.
DAMAGE = st.tuples(
    st.lists(st.integers(min_value=0), max_size=4),
    st.one_of(st.none(), st.integers(min_value=0)),
    st.binary(max_size=9),
)


def damaged(record: bytes, bits: list[int], kept: int | None, tail: bytes) -> bytes:
    """Return a record with bits flipped, its end cut off, and bytes appended."""
    changed = bytearray(record)
    for bit in bits:
        byte, position = divmod(bit % (8 * len(changed)), 8)
        changed[byte] ^= 1 << position
    return bytes(changed[: None if kept is None else kept % (len(changed) + 1)]) + tail


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), DAMAGE, st.sampled_from(["signed-pickle", "json", "msgpack"]))
def test_a_damaged_record_is_a_value_or_a_record_error(seed: bytes, damage: Any, name: str) -> None:
    """For each reader that loads no unsigned pickle; with its bounds on memory."""
    record = damaged(seed, *damage)
    codec = Codec(name, secrets=lambda: SECRETS, max_bytes=MAX_BYTES)
    with contextlib.suppress(RecordError):
        codec.decode(record, KEY)
    with contextlib.suppress(RecordError):
        codec.moved(record, KEY, b"target")
    tags_of_block(record)
    fresh_until_of(record)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([seed for seed in SEEDS if seed[1:2] == b"s"]), DAMAGE)
def test_a_signed_pickle_is_intact_or_refused(seed: bytes, damage: Any) -> None:
    """However the record is damaged: a pickle that is loaded is one that was written."""
    record = damaged(seed, *damage)
    if record[:2] not in {b"Vs", b"Ss"}:
        return
    with contextlib.suppress(RecordError):
        assert Codec("signed-pickle", secrets=lambda: SECRETS).decode(record, KEY) in SEED_VALUES
