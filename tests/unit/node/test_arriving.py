"""What arrives of replies is checked before the parser allocates what it declares."""

from __future__ import annotations

import random

import pytest

from cachebackend.node.arriving import MAX_ITEMS, Arriving
from cachebackend.node.translate import MalformedReplyError

GET = ((b"GET", b"k"),)
LONG = b"*1073741823\r\n"
#: Replies before which, or in which, a long list is declared.
BEFORE = {
    "nothing": b"",
    "a text": b"+OK\r\n",
    "a value": b"$3\r\nabc\r\n",
    "nil": b"$-1\r\n*-1\r\n",
    "a value without a line break after it": b"*2\r\n$3\r\nabcXX",
    "no value without a line break after it": b"*2\r\n$0\r\n--",
    "a value like a declaration": b"$14\r\n\n" + LONG[:-1] + b"a\r\n",
    "a list": b"*1\r\n",
    "an item of a list": b"*2\r\n+a\r\n",
    "a map": b"%1\r\n$1\r\na\r\n",
    "a long value": b"$3000000\r\n" + b"x" * 3_000_000 + b"\r\n",
}


def check(data: bytes, sizes: list[int]) -> None:
    """Let bytes arrive in pieces of some sizes, the last of which is repeated."""
    arriving, done = Arriving(), 0
    while done < len(data):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        arriving.check(data[done : done + size], GET)
        done += size


@pytest.mark.parametrize("sizes", [[10**9], [65_536], [7], [1], [5, 3, 65_536]], ids=str)
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_a_long_list_is_refused_wherever_it_is_declared(before: bytes, sizes: list[int]) -> None:
    """At the beginning, after another reply, or in a list; in one piece or in many."""
    if len(before) > 1000 and sizes[-1] < 1000:
        sizes = [1000]
    with pytest.raises(MalformedReplyError, match="a reply with more than 1,000,000 items"):
        check(before + LONG, list(sizes))
    check(before + b"*999000\r\n", list(sizes))


@pytest.mark.parametrize("kind", [b"*", b"%", b"~", b">", b"|"])
def test_all_kinds_of_lists_are_checked(kind: bytes) -> None:
    """Also those of a later version of the protocol."""
    with pytest.raises(MalformedReplyError):
        check(kind + LONG[1:], [10**9])


def test_values_may_hold_anything() -> None:
    """In pieces of any length; a declaration after them is found all the same."""
    generator = random.Random(0)
    for _ in range(300):
        parts = [generator.choice([b"\r\n", b"\n", LONG, b"$5\r\n", b"x" * 30]) for _ in range(9)]
        values = [b"".join(parts[at : at + 3]) for at in (0, 3, 6)]
        replies = b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)
        sizes = [generator.randrange(1, 60) for _ in range(9)]
        check(replies, list(sizes))
        with pytest.raises(MalformedReplyError):
            check(replies + LONG, list(sizes))


def test_a_command_may_have_more_keys() -> None:
    """Its reply may have as many items."""
    command = (b"MGET", *[b"k"] * (MAX_ITEMS + 1))
    Arriving().check(b"*%d\r\n" % (MAX_ITEMS + 1), [command])
    with pytest.raises(MalformedReplyError, match="1,000,002 items"):
        Arriving().check(b"*%d\r\n" % (MAX_ITEMS + 3), [command])


def test_what_is_kept_is_bounded() -> None:
    """A value of which more than a megabyte has arrived is not kept."""
    arriving = Arriving()
    arriving.check(b"$500000000\r\n", GET)
    for _ in range(100):
        arriving.check(b"x" * 65_536, GET)
        assert sum(map(len, arriving._chunks)) < 1_200_000
    assert arriving._chunks == [b""]


def test_the_pieces_that_are_kept_are_bounded() -> None:
    """A value that arrives byte by byte is not kept either."""
    arriving = Arriving()
    for byte in b"$500000000\r\n" + b"x" * 2000:
        arriving.check(bytes([byte]), GET)
        assert len(arriving._chunks) <= 1001
    assert arriving._chunks == [b""]


@pytest.mark.parametrize("text", [b"$x", b"*", b"$1_0", b"*" + b"0" * 30])
def test_a_declaration_without_a_number_is_refused(text: bytes) -> None:
    """What follows it cannot be followed."""
    with pytest.raises(MalformedReplyError, match="without the number"):
        check(text + b"\r\n" + LONG, [10**9])


@pytest.mark.parametrize(
    "begin", [b"+" + b"x" * 65_536, b":" + b"9" * 24, b"$" + b"9" * 24, b"*" + b"9" * 24]
)
def test_a_first_line_ends(begin: bytes) -> None:
    """The parser would keep all of it, for as long as the node sends."""
    check(begin[:24], [10**9])
    with pytest.raises(MalformedReplyError, match="the first line of a reply does not end"):
        check(begin, [10**9])


@pytest.mark.parametrize("begin", [b"*2\r\n+", b"+OK\r\n+", b"+a\n", b"$\n", b"*1\r\n$"], ids=str)
def test_every_line_ends(begin: bytes) -> None:
    """Also one in a list, after another reply, or after a line feed."""
    with pytest.raises(MalformedReplyError, match="a line of a reply does not end"):
        check(begin + b"x" * 3_000_000, [65_536])


@pytest.mark.parametrize("sizes", [[10**9], [65_536], [7]], ids=str)
@pytest.mark.parametrize(
    "item", [b"*999999\r\n", b"*2\r\n+a\r\n*10000\r\n", b"*9999\r\n", b"*100\r\n", b"%500\r\n"], ids=str
)
def test_long_lists_in_lists_are_refused(item: bytes, sizes: list[int]) -> None:
    """Each of a few bytes would get kilobytes or megabytes, as the first item of the one before."""
    with pytest.raises(MalformedReplyError, match="a reply with more than 1,000,000 items"):
        check(item * 10_100, list(sizes))


@pytest.mark.parametrize(
    "item", [b"*0\r\n", b"*1\r\n*0\r\n", b"*2\r\n:1\r\n:2\r\n", b"%1\r\n+a\r\n+b\r\n"], ids=str
)
def test_many_short_lists_in_a_list_are_refused(item: bytes) -> None:
    """An empty list of four bytes takes eighty."""
    with pytest.raises(MalformedReplyError, match="a reply with more than 1,000,000 items"):
        check(b"*2000\r\n" + (b"*1000\r\n" + item * 1000) * 2000, [65_536])


def test_what_is_allocated_before_it_is_refused_is_bounded() -> None:
    """Lists of few items, each in the one before, may declare some items for each byte, and no more."""
    for item in (b"*1\r\n", b"*9\r\n", b"*99\r\n", b"*999\r\n", b"*9999\r\n"):
        arriving, declared = Arriving(), 0
        with pytest.raises(MalformedReplyError, match="items"):
            while True:
                arriving.check(item * 1000, GET)
                declared += 1000 * int(item[1:])
        assert declared < 11 * MAX_ITEMS


def test_many_long_lists_may_follow_one_another() -> None:
    """Each is a part of another reply."""
    item = b"*2\r\n+0\r\n*100000\r\n" + b"_\r\n" * 100_000
    check(item * 21 + b"*2\r\n+0\r\n*999998\r\n", [65_000])
