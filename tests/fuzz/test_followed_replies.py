"""The items of replies of both versions of the protocol are counted exactly, wherever the replies are cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, pairwise

import pytest

from cachebackend.node import arriving
from cachebackend.node.arriving import Arriving
from cachebackend.node.translate import INCOMPLETE, MalformedReplyError, make_reader
from tests.fuzz.mutants import count
from tests.integration.fake_node import bulk

#: Parts of values that look like the beginning of a reply, or like the end of a line.
_PARTS = [
    b"*9999999\r\n",
    b">99999\r\n",
    b"%1000\r\n",
    b"$-1\r\n",
    b"$9999\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"x",
    b"",
]
_LEAVES = [
    *[
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b"#f\r\n",
        b"+OK\r\n",
        b"+\r\n",
        b"+*99999\r\n",
        b"-ERR $9\r\n",
    ],
    *[b":0\r\n", b":-9223372036854775808\r\n", b",1.5\r\n", b",inf\r\n", b",nan\r\n", b"(%d\r\n" % 10**200],
]


def text(generator: random.Random) -> bytes:
    """Return any value."""
    return b"".join(generator.choices(_PARTS, k=generator.randrange(5)))


def reply(generator: random.Random, depth: int) -> tuple[bytes, int]:
    """Return a reply, and the items of all lists in it: a map or an attribute has two for each pair."""
    if not depth or generator.random() < 0.4:
        verbatim = b"txt:" + text(generator)
        leaves = [
            bulk(text(generator)),
            b"=%d\r\n%b\r\n" % (len(verbatim), verbatim),
            generator.choice(_LEAVES),
        ]
        return generator.choice(leaves), 0
    kind, length = generator.choice("**%~>|"), generator.choice([0, 1, 2, 3, generator.randrange(20)])
    keys = [(bulk(b"%d" % number), 0) for number in range(length)]  # hiredis makes a dict of a map
    values = [reply(generator, depth - 1) for _ in range(length)]
    elements = list(chain.from_iterable(zip(keys, values, strict=True))) if kind in "%|" else values
    items = len(elements) + sum(below for _, below in elements)
    return b"%b%d\r\n%b" % (kind.encode(), length, b"".join(element for element, _ in elements)), items


def read(pieces: Sequence[bytes]) -> list[str]:
    """Read what arrives, as a connection does."""
    reader, arrived, replies = make_reader("a"), Arriving(), []
    for piece in pieces:
        arrived.check(piece, [(b"GET",)])
        reader.feed(piece)
        while (each := reader.gets()) is not INCOMPLETE:
            replies.append(repr(each))
            if reader.has_data():
                arrived.more()
            else:
                arrived.end()
    return replies


def pieces_of(generator: random.Random, stream: bytes) -> list[bytes]:
    """Return a stream in pieces: single bytes, or some."""
    if generator.random() < 0.2:
        return [bytes([byte]) for byte in stream]
    places = sorted(generator.sample(range(len(stream)), min(len(stream), generator.randrange(6))))
    return [stream[start:end] for start, end in pairwise([0, *places, len(stream)]) if start < end]


@pytest.mark.parametrize("few", [-1, 0, 50])
def test_the_items_of_each_reply_are_counted(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that has as many as it may have is read, in all pieces; one with one item more is not."""
    monkeypatch.setattr(arriving, "_FEW_ITEMS", few)
    if few < 0:
        monkeypatch.setattr(arriving, "_SHORT_BYTES", 0)
    generator, tried = random.Random(random.getrandbits(32)), count(150)
    for _ in tried:
        made = [reply(generator, generator.randrange(5)) for _ in range(generator.randrange(1, 5))]
        stream, most = b"".join(each for each, _ in made), max(items for _, items in made)
        monkeypatch.setattr(arriving, "MAX_ITEMS", max(most, 1))
        monkeypatch.setattr(arriving, "_KEPT_BYTES", generator.choice([0, 5, 10**6]))
        expected = read([stream])
        assert len(expected) == len(made)
        streams = [pieces_of(generator, stream) for _ in range(10)]
        for pieces in streams:
            assert read(pieces) == expected, pieces
        if most > 1 and few < 0:
            monkeypatch.setattr(arriving, "MAX_ITEMS", most - 1)
            for pieces in streams:
                with pytest.raises(MalformedReplyError, match="items"):
                    read(pieces)
    print(f"{len(tried)} streams of valid replies of both versions of the protocol, cut at 10 places each")
