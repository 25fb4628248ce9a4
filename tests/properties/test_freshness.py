"""The short way to a value, compared with the general one, for any bytes that a node may return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cachebackend.codec import Codec, Refresh
from cachebackend.protocol.cache.freshness import NOT_PLAIN, CachedValue, fresh_value, read_record
from cachebackend.protocol.cache.tokens import Tokens

KEY, NOW = b"shop:1:k", 1000.0
CODEC = Codec("auto")
TAGS = {name: bytes([ord(name)]) * 16 for name in "abc"}
BLOCKS = st.dictionaries(st.sampled_from(sorted(TAGS)), st.binary(min_size=16, max_size=16), max_size=3)
REFRESHES = st.none() | st.builds(
    Refresh,
    st.floats(NOW - 9, NOW + 9),
    st.floats(0, 9),
    st.just(bytes(16)),
    st.floats(NOW - 9, NOW + 9),
)


def context_of(draw: float) -> Any:
    """Return what the functions use of an alias."""
    cell = SimpleNamespace(hits=0)
    return SimpleNamespace(
        codec=CODEC,
        clock=SimpleNamespace(now=lambda: NOW, random=lambda: draw),
        options=SimpleNamespace(early_refresh_beta=1.0),
        counters=SimpleNamespace(cell=cell),
        undecodable=lambda error: None,
    )


def tokens_of(required: set[str]) -> Tokens:
    tokens = Tokens([name.encode() for name in sorted(required)])
    tokens.add({name.encode(): token for name, token in TAGS.items()})
    return tokens


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Return a record, perhaps with other bytes, or without its end."""
    value = draw(st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3))
    right = st.sets(st.sampled_from(sorted(TAGS))).map(lambda names: {name: TAGS[name] for name in names})
    tags = {name.encode(): token for name, token in draw(right | BLOCKS).items()}
    record = bytearray(CODEC.encode(value, KEY, draw(REFRESHES), tags))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2)):
        record[place % len(record)] = byte
    return bytes(record[: draw(st.none() | st.integers(0, 200))])


@settings(max_examples=600, deadline=None)
@given(records(), st.sets(st.sampled_from(sorted(TAGS))) | st.none(), st.floats(0, 1, exclude_max=True))
def test_what_is_read_the_short_way_is_read_the_general_way(
    record: bytes, required: set[str] | None, draw: float
) -> None:
    """It is that value, which every reader may be served now, also if bytes of the record have changed."""
    tokens, context = None if required is None else tokens_of(required), context_of(draw)
    found = fresh_value(context, record, tokens)
    assert context.counters.cell.hits == (found is not NOT_PLAIN)
    if found is not NOT_PLAIN:
        general = read_record(context, KEY, record, tokens, allow_stale=False)
        assert repr(general) == repr(CachedValue(found, due=False, stale=False))


def test_the_short_way_draws_no_number() -> None:
    """The general one does, for the same read: of two draws, both would have to be large enough."""
    record = CODEC.encode([1], KEY, Refresh(NOW + 9, 9.0), {})
    assert fresh_value(context_of(0.0), record) is NOT_PLAIN
    read = read_record(context_of(0.0), KEY, record, allow_stale=False)
    assert read == CachedValue([1], due=False, stale=False)


def test_a_value_with_valid_tags_is_read_the_short_way() -> None:
    """Else the comparison above would show nothing of it."""
    record = CODEC.encode([1], KEY, Refresh(NOW + 9, 0.0), {b"a": TAGS["a"]})
    assert fresh_value(context_of(0.0), record, tokens_of({"a"})) == [1]
    assert fresh_value(context_of(0.0), record, tokens_of({"a", "b"})) is NOT_PLAIN
    assert fresh_value(context_of(0.0), record) is NOT_PLAIN
