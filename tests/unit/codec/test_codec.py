from __future__ import annotations

import enum
import pickle
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.utils.safestring import SafeString, mark_safe

from cachebackend.codec import CODECS, COMPRESSORS, Codec, Kind, kind_of, lease_record, lease_token
from cachebackend.codec.record import CodecId
from cachebackend.errors import CodecError, RecordError, ValueTooLongError


def SECRETS() -> list[bytes]:  # noqa: N802  # one for all tests
    return [b"new", b"old"]


KEY = b"shop:1:k"
decode = partial(Codec("auto", secrets=SECRETS).decode, key=KEY)
Point = namedtuple("Point", "x y")
BERLIN = ZoneInfo("Europe/Berlin")


class Colour(enum.IntEnum):
    RED = 1


@dataclass
class Person:
    name: str


PLAIN = [
    None, True, False, 1.5, -0.0, float("inf"), "", "žluť", b"\x00\xff", [], [1, [2]], {}, {"a": {"b": 1}},
    2**63, -(2**63) - 1, 2**200, (1, (2, [3])), {1, 2}, frozenset({(1, 2)}), {"t": (1,), "s": {1}},
    Decimal("1.10"), Decimal("-0"), Decimal("1E+5"), UUID(int=5), date.max, date.min,
    datetime(2024, 5, 1, 12, 30, 15, 123456), datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 1,
    tzinfo=BERLIN),
    datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1), datetime(2024, 5, 1,
    tzinfo=timezone(timedelta(hours=-3))),
    time(1, 2, 3, 4), time(1, tzinfo=UTC), time(1, fold=1), timedelta.min, timedelta.max,
    timedelta(microseconds=-1),
]  # fmt: skip
PICKLED = [
    {1: 2}, {"k": {(1,): 2}}, Point(1, 2), Colour.RED, [Colour.RED], Person("x"), mark_safe("<b>"),
    {mark_safe("a"): 1},
    datetime(2024, 5, 1, tzinfo=timezone(timedelta(hours=2), "named")), "\ud800",
]  # fmt: skip


def shape(value: Any) -> Any:
    """Return the types of a value and of all values in it, and properties that equality ignores."""
    inner: Any = None
    if isinstance(value, list | tuple):
        inner = [shape(item) for item in value]
    elif isinstance(value, dict):
        inner = [(shape(key), shape(item)) for key, item in value.items()]
    elif isinstance(value, set | frozenset):
        inner = sorted(repr(shape(item)) for item in value)
    return type(value), inner, getattr(value, "fold", None), repr(getattr(value, "tzinfo", None)), repr(value)


@pytest.mark.parametrize("name", ["auto", "pickle", "signed-pickle"])
@pytest.mark.parametrize("value", PLAIN + PICKLED, ids=repr)
def test_a_value_comes_back_equal_and_of_the_same_types(name: str, value: Any) -> None:
    """With every codec that pickles."""
    back = decode(Codec(name, secrets=SECRETS).encode(value, KEY))
    assert back == value
    assert shape(back) == shape(value)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_auto_writes_messagepack_if_it_can_hold_the_value(value: Any) -> None:
    """It pickles only values that MessagePack would change."""
    assert Codec("auto").encode(value, KEY)[1] == CodecId.MSGPACK_EXTENDED


@pytest.mark.parametrize("value", PICKLED, ids=repr)
def test_auto_pickles_other_values(value: Any) -> None:
    """Subclasses, enums, dataclasses and keys that are not str."""
    assert Codec("auto").encode(value, KEY)[1] == CodecId.PICKLE


@pytest.mark.parametrize("value", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_an_integer_is_written_bare(value: int) -> None:
    """So that INCRBY can add to it."""
    assert Codec("auto").encode(value, KEY) == str(value).encode()


@pytest.mark.parametrize("value", [True, False, 2**63])
def test_values_that_incrby_cannot_hold_are_not_bare(value: int) -> None:
    """A bool is not an integer, and an integer of a record has at most 64 bits."""
    assert kind_of(Codec("auto").encode(value, KEY)) is Kind.VALUE


def test_a_value_that_refuses_to_be_pickled_raises_when_written() -> None:
    """The caller of the write sees the error; nothing is cached."""

    class Closed:
        def __reduce__(self) -> str:
            raise pickle.PickleError

    with pytest.raises(pickle.PickleError):
        Codec("auto").encode(Closed(), KEY)


@pytest.mark.parametrize(
    "record",
    [
        b"", b"X", b"V", b"Vp", b"Vp\x00", b"V?\x00abc", b"Vm\x00\xc1", b"Vm\x01abc", b"Vp\x00garbage",
        b"12x", b"-",
        b"L" + bytes(16), b"Q" + bytes(16), b"Vm\x00\xc7\x01\x63a",
    ],
)  # fmt: skip
def test_a_record_without_a_readable_value_is_a_record_error(record: bytes) -> None:
    """Leases, quarantines, unknown codecs and flags, incomplete records, and bytes of other programs."""
    with pytest.raises(RecordError):
        decode(record)


def test_a_lease_record_holds_its_token() -> None:
    """The token is the sixteen bytes after the kind."""
    token = bytes(range(16))
    assert kind_of(lease_record(token)) is Kind.LEASE
    assert lease_token(lease_record(token)) == token
    with pytest.raises(RecordError):
        lease_token(b"Lshort")


def test_safe_strings_stay_safe() -> None:
    """A cached template fragment must not be escaped a second time."""
    assert type(decode(Codec("auto").encode(mark_safe("<b>"), KEY))) is SafeString


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


@pytest.mark.parametrize("name", ["signed-pickle", "json", "msgpack"])
@pytest.mark.parametrize(
    "record", [b"Vp\0" + pickle.dumps(Bomb()), b"Vs\0" + bytes(32) + pickle.dumps(Bomb()), b"Vs\0short"]
)
def test_a_pickle_that_the_project_did_not_sign_is_never_loaded(name: str, record: bytes) -> None:
    """Otherwise a program that can write to a node could run code in this process."""
    with pytest.raises(RecordError):
        Codec(name, secrets=SECRETS).decode(record, KEY)


def test_a_signature_by_a_former_secret_is_valid() -> None:
    """While the secret is being changed. A signature by another secret is not valid."""
    record = Codec("signed-pickle", secrets=lambda: [b"old"]).encode(Colour.RED, KEY)
    assert record[1] == CodecId.SIGNED_PICKLE
    assert Codec("signed-pickle", secrets=SECRETS).decode(record, KEY) is Colour.RED
    with pytest.raises(RecordError, match="no valid signature"):
        Codec("signed-pickle", secrets=lambda: [b"another"]).decode(record, KEY)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("json", (1, 2), "cannot hold a tuple"),
        ("json", {"a": Decimal(1)}, "cannot hold a Decimal"),
        ("json", {1: 2}, "keys are str"),
        ("json", [float("nan")], "cannot hold this list"),
        ("json", [Colour.RED], "cannot hold a Colour"),
        ("msgpack", Point(1, 2), "cannot hold this Point"),
        ("msgpack", {"a": Person("x")}, "cannot hold this dict"),
    ],
)
def test_a_codec_without_pickle_refuses_values_that_it_cannot_hold(name: str, value: Any, says: str) -> None:
    """When the value is written, and the message names the type."""
    with pytest.raises(CodecError, match=says):
        Codec(name).encode(value, KEY)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_long_values_are_compressed_and_short_ones_are_not(compressor: str) -> None:
    """Nor are values that compression would make longer."""
    codec = Codec("auto", compressor, 100)
    long, short = "x" * 5000, "x" * 50
    assert len(codec.encode(long, KEY)) < 200
    assert codec.encode(short, KEY)[2] == 0
    assert decode(codec.encode(long, KEY)) == long
    noise = bytes(hash((n, "noise")) % 256 for n in range(300))
    assert decode(codec.encode(noise, KEY)) == noise


def test_a_compressor_that_is_not_installed_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install. For a reader the value is a miss."""
    from cachebackend.codec import compression

    record = Codec("auto", "zstd", 0).encode("x" * 100, KEY)

    def missing(path: str) -> Any:
        raise ImportError(path)

    monkeypatch.setattr(compression, "import_module", missing)
    compression._module.cache_clear()
    compression._zstandard.cache_clear()
    with pytest.raises(CodecError, match=r"django-ringcache\[compression\]"):
        Codec("auto", "zstd")
    with pytest.raises(RecordError):
        decode(record)


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_decodes_what_it_encodes(name: str) -> None:
    """A codec that cannot read its own payloads would miss on every read."""
    codec = Codec(name, secrets=SECRETS)
    for value in ({"a": [1, "b", None]}, "text", 17):
        assert codec.decode(codec.encode(value, KEY), KEY) == value


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("compressor", ["none", *COMPRESSORS])
def test_a_value_has_a_largest_length(name: str, compressor: str) -> None:
    """Before it is compressed; a reader with a lower limit does not decompress it."""
    low, high = (Codec(name, compressor, 0, SECRETS, limit) for limit in (1000, 10_000))
    with pytest.raises(ValueTooLongError, match="max_value_bytes"):
        low.encode("x" * 2000, KEY)
    record = high.encode("x" * 2000, KEY)
    assert high.decode(record, KEY) == "x" * 2000
    if compressor != "none":
        with pytest.raises(RecordError, match="cannot be|longer than"):
            low.decode(record, KEY)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("value", [_nested(3000), _in_itself()], ids=["deep", "in itself"])
def test_no_value_raises_recursion_error(name: str, value: Any) -> None:
    """A value that is nested too deeply is refused, or written, but raises no error of Python itself."""
    try:
        record = Codec(name, secrets=SECRETS).encode(value, KEY)
    except CodecError:
        return
    assert kind_of(record) is Kind.VALUE
