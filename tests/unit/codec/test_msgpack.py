"""MessagePack with extensions: what is written, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from itertools import product
from typing import Any
from uuid import UUID

import ormsgpack
import pytest

from cachebackend.codec.msgpack import EncodeError, dumps, has_own_types, loads
from tests.interrupting import interruptions, raising_handler


class Text(str):
    """A subclass of str."""


class Colour(Enum):
    """An enum."""

    RED = "red"


@pytest.mark.parametrize(
    "value",
    [Text("x"), OrderedDict(a=1), Colour.RED, {1: 2}, object(), {"a": [Text("x")]}, {Text("a"): 1}],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_would_change_is_refused(value: Any) -> None:
    """Subclasses, enums and keys that are not str, at any depth."""
    with pytest.raises(EncodeError):
        dumps(value)


@pytest.mark.parametrize("value", [bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
def test_a_buffer_comes_back_as_the_bytes_it_is_equal_to(value: Any) -> None:
    """The one exception: Django's binary fields give memoryviews."""
    assert loads(dumps(value)) == b"\x00\xff"
    assert type(loads(dumps(value))) is bytes


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2514, 5, 30, 1, 53, 3, 999_999, tzinfo=UTC),
        datetime(2514, 5, 30, 1, 53, 4, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
    ids=str,
)
def test_a_moment_is_messagepacks_own_timestamp(moment: datetime) -> None:
    """Other programs read it, too; 8 bytes from 1970 to 2514, else 12."""
    packed = dumps(moment)
    assert packed[:2] in {b"\xd7\xff", b"\xc7\x0c"}
    assert loads(packed) == moment
    assert ormsgpack.unpackb(packed, option=ormsgpack.OPT_DATETIME_AS_TIMESTAMP_EXT) == moment


def test_a_zone_with_a_name_of_its_own_is_refused() -> None:
    """A zone of an offset alone is not."""
    moment = datetime(2024, 5, 1, tzinfo=timezone(timedelta(hours=2)))
    assert loads(dumps(moment)) == moment
    with pytest.raises(EncodeError):
        dumps(moment.replace(tzinfo=timezone(timedelta(hours=2), "named")))


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        (Decimal("1.10"), b"\xd6\x071.10"),
        (date(1, 1, 2), b"\xd6\x04\x00\x00\x00\x02"),
        (UUID(int=1), b"\xd8\x08" + bytes(15) + b"\x01"),
        ((1,), b"\xd5\x09\x91\x01"),
        (2**64, b"\xc7\x09\x0c\x01" + bytes(8)),
    ],
    ids=repr,
)
def test_extensions_are_the_same_in_every_release(value: Any, packed: bytes) -> None:
    """A change here would make every such value a miss, or another one."""
    assert dumps(value) == packed
    assert loads(packed) == value


def test_an_unknown_extension_is_an_error() -> None:
    """A newer release wrote it."""
    with pytest.raises(ormsgpack.MsgpackDecodeError):
        loads(b"\xd4\x4d\x00")


ROW = {"price": Decimal("1.5"), "sizes": (1, (2, UUID(int=3))), "at": datetime(2026, 1, 1)}  # a naive one


@pytest.mark.parametrize("call", [lambda: dumps(ROW), lambda: loads(dumps(ROW))], ids=["dumps", "loads"])
def test_what_a_signal_handler_raises_reaches_the_caller(call: Callable[[], Any]) -> None:
    """Although ormsgpack drops what the functions raise that it calls. The next call is not affected."""
    expected = call()
    with raising_handler():
        assert [each.place for each in interruptions(call) if not each.has_reached_caller] == []
    assert call() == expected


def test_a_value_that_nests_too_deeply_is_no_interruption() -> None:
    """Python refuses the call of a function that the codec would make for the next level."""
    value: tuple[Any, ...] = ()
    for _ in range(3000):
        value = (value,)
    with pytest.raises(EncodeError):
        dumps(value)


@pytest.mark.parametrize(
    "state",
    [b"\x07\xea\x01\x63\0\0\0\0\0\0", b"\x07\xea\x02\x1e\0\0\0\0\0\0", b"\x07\xea\x01\x01\x63\0\0\0\0\0",
     b"\x07\xea\x01\x01\0\x63\0\0\0\0", b"\0\0\x01\x01\0\0\0\0\0\0", b"\x07\xea\x01\x01\0\0\0\xff\xff\xff"],
)  # fmt: skip
def test_a_datetime_that_does_not_exist_is_an_error(state: bytes) -> None:
    """The constructor takes most of its state unchecked; such an object crashes later, in other code."""
    for extension in (ormsgpack.Ext(1, state), ormsgpack.Ext(3, state + b"zUTC")):
        with pytest.raises(ValueError):  # noqa: PT011  # of datetime
            loads(ormsgpack.packb(extension))


@pytest.mark.parametrize("state", [b"\0\x63\0\0\0\0", b"\0\0\x63\0\0\0", b"\0\0\0\xff\xff\xff"])
def test_a_time_that_does_not_exist_is_an_error(state: bytes) -> None:
    """As with datetimes."""
    for extension in (ormsgpack.Ext(5, state), ormsgpack.Ext(5, state + b"zUTC")):
        with pytest.raises(ValueError):  # noqa: PT011  # of datetime
            loads(ormsgpack.packb(extension))


def tuple_of(payload: bytes) -> bytes:
    """Return the payload of a tuple, given the payload of the list of its items."""
    return b"\xc9" + len(payload).to_bytes(4, "big") + b"\x09" + payload


def chain(levels: int, lists: int, item: bytes = b"\x90") -> bytes:
    """Return a payload of tuples inside of each other, each of which `lists` lists contain."""
    for _ in range(levels):
        item = b"\x91" * lists + tuple_of(item)
    return item


#: Reads payloads, one a line in hexadecimal, in a thread that has the smallest stack that is supported.
READER = """
import sys, threading
from cachebackend.codec.msgpack import loads

def read():
    for line in sys.stdin:
        try:
            loads(bytes.fromhex(line))
            print("read")
        except ValueError:
            print("refused")

threading.stack_size(2**20)
thread = threading.Thread(target=read)
thread.start()
thread.join()
"""


def test_no_payload_overflows_the_stack() -> None:
    """However its lists, dicts and tuples are nested: the process would crash."""
    payloads = {
        "lists": (b"\x91" * 1020 + b"\x90", "read"),
        "more lists than ormsgpack reads": (b"\x91" * 5000 + b"\x90", "refused"),
        "dicts": (b"\x81\xa1a" * 1020 + b"\x90", "read"),
        "lists around a short tuple of lists": (b"\x91" * 1020 + tuple_of(b"\x91" * 511 + b"\x90"), "read"),
        "lists around short tuples": (b"\x91" * 1020 + chain(63, 2), "read"),
        "lists around long tuples": (chain(16, 1000), "read"),
        "more long tuples than a value may have": (chain(300, 1000), "refused"),
        "more tuples than a value may have": (chain(900, 0), "refused"),
    }
    lines = "\n".join(payload.hex() for payload, _ in payloads.values())
    reading = subprocess.run(
        [sys.executable, "-c", READER], input=lines, capture_output=True, text=True, check=True
    )
    assert dict(zip(payloads, reading.stdout.split(), strict=True)) == {
        name: expected for name, (_, expected) in payloads.items()
    }


LONG = ("x" * 600,)


@pytest.mark.parametrize(
    "value",
    [
        LONG,
        [LONG, LONG, {"a": LONG, "b": [(1,), LONG]}],
        (LONG, (LONG, LONG), LONG),
        {LONG, (LONG, 1)},
        frozenset({(1, LONG)}),
        [(1, Decimal(5)), LONG, {UUID(int=1)}, LONG],
    ],
    ids=range(6),
)
def test_long_tuples_and_sets_come_back_in_their_places(value: Any) -> None:
    """They are read after the payload that contains them."""
    assert loads(dumps(value)) == value


def nested(levels: int) -> Any:
    """Return tuples inside of each other, each of which is long."""
    value: Any = "x" * 600
    for _ in range(levels):
        value = (value,)
    return value


def test_what_is_written_can_be_read() -> None:
    """A value of more tuples inside of each other than the reader accepts is refused by the writer."""
    assert loads(dumps(nested(16))) == nested(16)
    with pytest.raises(EncodeError):
        dumps(nested(17))
    with pytest.raises(ValueError, match="inside of each other"):
        loads(tuple_of(b"\x91" + dumps(nested(16))))


def test_an_interruption_reaches_the_caller_from_long_tuples() -> None:
    """From each of the passes over their payload."""
    packed = dumps([LONG, {"a": (LONG, Decimal(1))}])
    expected = loads(packed)
    with raising_handler():
        swallowed = [
            each.place for each in interruptions(lambda: loads(packed)) if not each.has_reached_caller
        ]
    assert swallowed == []
    assert loads(packed) == expected


#: What hashes of numbers are the remainder of.
_MODULUS = sys.hash_info.modulus


@pytest.mark.parametrize("tag", [10, 11])
@pytest.mark.parametrize(
    "members",
    [
        [ormsgpack.Ext(12, (n * _MODULUS).to_bytes(16, "big")) for n in range(1, 300)],
        [ormsgpack.Ext(7, str(n * _MODULUS).encode()) for n in range(1, 300)],
        [ormsgpack.Ext(8, (n * _MODULUS).to_bytes(16, "big")) for n in range(1, 300)],
    ],
    ids=["integers", "decimals", "UUIDs"],
)
def test_a_set_whose_members_have_one_hash_is_refused(tag: int, members: list[ormsgpack.Ext]) -> None:
    """Python compares each of them with all others, so a short record could occupy the process for hours."""
    payload = ormsgpack.packb(ormsgpack.Ext(tag, ormsgpack.packb(members)))
    with pytest.raises(ValueError, match="hash"):
        loads(payload)


def test_a_set_that_cannot_be_read_is_not_written() -> None:
    """Its members have one hash."""
    with pytest.raises(EncodeError):
        dumps({n * _MODULUS for n in range(1, 300)})


@pytest.mark.parametrize("inner", [9, 11])
def test_a_set_of_long_members_with_one_hash_is_refused(inner: int) -> None:
    """Each comparison takes as long as their equal beginnings are, so fewer of them are read than numbers."""
    ends = [ormsgpack.Ext(12, (n * _MODULUS).to_bytes(16, "big")) for n in range(1, 40)]
    members = [ormsgpack.Ext(inner, ormsgpack.packb([*range(1000), end])) for end in ends]
    with pytest.raises(ValueError, match="hash"):
        loads(ormsgpack.packb(ormsgpack.Ext(10, ormsgpack.packb(members))))


@pytest.mark.parametrize(
    "value",
    [
        {(sign, n) for sign in (-1, -2) for n in range(1000)},
        {2.0 ** (61 * n) for n in range(-17, 17)},
        set(product((-1, -2), repeat=5)),
        {n * _MODULUS for n in range(-8, 9)},
        {f"{n}" * 100 for n in range(300)},
    ],
    ids=["pairs", "powers", "signs", "integers", "texts"],
)
def test_sets_without_design_come_back(value: set[object]) -> None:
    """A few equal hashes are allowed: -1 and -2 have one, and so do integers and floats of some distances."""
    assert loads(dumps(value)) == value


class Text(str):
    """A subclass."""

    __slots__ = ()


@pytest.mark.parametrize("value", [None, True, 1, -1, 1.5, "x", b"x", [1, ["x"]], {"a": {"b": []}}])
def test_the_types_of_messagepack_itself_are_known(value: object) -> None:
    """Nested ones too."""
    assert has_own_types(value)


@pytest.mark.parametrize(
    "value", [2**64, "\ud800", Text("x"), (1,), {1: 2}, {Text("x"): 1}, {1}, [{"a": (1,)}]]
)
def test_other_types_are_not(value: object) -> None:
    """Subclasses, keys that are not str, and what needs an extension."""
    assert not has_own_types(value)
