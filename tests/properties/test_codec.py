from __future__ import annotations

import contextlib
from datetime import UTC
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cachebackend.codec import Codec, decode, kind_of
from cachebackend.errors import RecordError

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
    """Through ``auto``, however it is nested."""
    back = decode(Codec("auto").encode(value))
    assert back == value
    assert types_of(back) == types_of(value)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda rest: b"Vm\0" + rest)))
def test_random_bytes_are_a_value_or_a_record_error(record: bytes) -> None:
    """A node may hold anything; nothing but RecordError comes of it."""
    with contextlib.suppress(RecordError):
        decode(record)
    with contextlib.suppress(RecordError):
        kind_of(record)
