"""Checks what arrives of a node's replies before hiredis gets it.

hiredis allocates a list of any length that a reply declares, also one inside of a list, and keeps a first
line that never ends. A value may hold the same bytes. So if some bytes look like declarations of many items,
which is rare, the replies are followed element by element, to see whether they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cachebackend.effects import Command
from cachebackend.node.translate import LISTS, MalformedReplyError

__all__ = ["MAX_ITEMS", "Arriving"]

#: The most items in all lists of a reply together, which take a hundred megabytes if they are empty lists; a
#: command may have more keys, and its reply as many items.
MAX_ITEMS = 1_000_000
#: The first byte of a list with two items, a key and a value, for each one that it declares.
_PAIRS = frozenset(b"%|")
#: The fewest digits of a number of items that is looked for, and the most.
_FEWEST_DIGITS, _MOST_DIGITS = 3, 19
#: The most items that may be declared in bytes that were not followed.
_FEW_ITEMS = 10_000
#: The first byte of an element that has a length: that number of bytes follows its line, and a line break.
_WITH_LENGTH = frozenset(b"$=!")
#: The first byte of a reply whose first line is a text, an error or a long number.
_TEXTS = frozenset(b"+-(,")
#: The most bytes of the first line of a reply: of such a one, and of another one, which holds a number.
_TEXT_LINE_BYTES, _LINE_BYTES = 65_536, 24
#: Bytes, and pieces of them, that are kept until they are followed: the value that they are a part of may be
#: long. A piece of one byte takes forty.
_KEPT_BYTES, _KEPT_PIECES = 512 * 1024, 1000
#: The most bytes of a first piece that is nearly always all of the reply.
_SHORT_BYTES = 4096


def _declaration() -> re.Pattern[bytes]:
    """Return a pattern for the declaration of a list, if it is not a part of a value.

    Its only group that matches is the number of items. What is before it does not matter, as hiredis takes
    any two bytes for the line break after a value. The line break, found fast, comes first, and then one
    digit after the other before it: most lines have few.
    """
    pattern = rb"(?!)"
    for digits in range(_MOST_DIGITS, _FEWEST_DIGITS - 1, -1):
        declared = rb"(?<=[*%%~>|](\d{%d})\r\n)" % digits
        pattern = rb"(?<=\d{%d}\r\n)(?:%b|%b)" % (digits, declared, pattern)
    return re.compile(rb"\r\n" + pattern)


_DECLARATION = _declaration()


class Arriving:
    """The bytes that have arrived of the replies on one connection, since the last one was complete."""

    __slots__ = (
        "_chunks",
        "_declared",
        "_edge",
        "_first",
        "_items",
        "_kept",
        "_line",
        "_missing",
        "_skipped",
    )

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        #: All that has arrived, if it is one piece that declares no list; None: it is more.
        self._first: bytes | None = b""
        #: What was not followed: the bytes, how many they are, and the items that they may declare.
        self._chunks: list[bytes] = []
        self._kept = self._declared = 0
        #: The last of these bytes, which may be the beginning of a declaration.
        self._edge = b""
        #: The first line of the next reply, as far as it has arrived; None: it is complete, or it has arrived
        #: together with an earlier reply.
        self._line: bytes | None = b""
        #: Of the reply that is followed: the items of all lists, and the elements that have not arrived.
        self._items, self._missing = 0, 1
        #: How many of the next bytes belong to a value.
        self._skipped = 0

    def end(self) -> None:
        """Record that a reply is complete, and that nothing of the next one has arrived."""
        if self._first is None:
            self._reset()
        else:
            self._first, self._line = b"", b""

    def more(self) -> None:
        """Record that a reply is complete, and that bytes of the next one have arrived with it."""
        self._line = None

    def check(self, data: bytes, commands: Iterable[Command]) -> None:
        """Check bytes that have arrived; the parser may get them next.

        Args:
            data: The bytes.
            commands: The commands of whose replies they are a part.

        Raises:
            MalformedReplyError: The lists of a reply declare more items together than the reply to any
                command has, or a line is too long.
        """
        if self._first is not None:
            is_short = not self._first and len(data) <= _SHORT_BYTES
            if is_short and b"\n" in data and not _DECLARATION.search(data):
                self._first = data  # nearly always all; a further piece is checked together with it
                return
            data, self._first = self._first + data, None
        if self._line is not None:
            self._line = _checked_line(self._line + data)
        if self._skipped:
            rest = data[self._skipped :]
            self._skipped -= len(data) - len(rest)
            if not rest:
                return
            data = rest
        edge = self._edge
        text = edge + data
        for match in _DECLARATION.finditer(text, max(len(edge) - 1, 0)):
            self._declared += int(match[match.lastindex or 0])
        self._edge = text[-_LINE_BYTES:]
        self._chunks.append(data)
        self._kept += len(data)
        if self._declared > _FEW_ITEMS or self._kept > _KEPT_BYTES or len(self._chunks) > _KEPT_PIECES:
            self._follow(commands)

    def _follow(self, commands: Iterable[Command]) -> None:
        """Follow the elements that have arrived, and forget them."""
        data, position, most = b"".join(self._chunks), 0, MAX_ITEMS
        while (end := data.find(b"\r\n", position)) >= 0:
            kind, number = data[position], data[position + 1 : end]
            position = end + 2
            if kind in LISTS:
                items = max(_number(number), 0) * (2 if kind in _PAIRS else 1)
                self._items += items
                self._missing += items
                if self._items > most and self._items > (
                    most := max(most, max(map(len, commands), default=0))
                ):
                    message = f"a reply with more than {most:,} items"
                    raise MalformedReplyError(message)
            elif kind in _WITH_LENGTH and (length := _number(number)) >= 0:
                position += length + 2
            self._missing -= 1
            if not self._missing:
                self._items, self._missing = 0, 1
        rest = data[position:]
        self._skipped = max(position - len(data), 0)
        self._chunks, self._kept, self._declared = [rest], len(rest), 0
        self._edge = rest[-_LINE_BYTES:]
        if self._kept > _TEXT_LINE_BYTES:
            message = "a line of a reply does not end"
            raise MalformedReplyError(message)


def _number(text: bytes) -> int:
    """Return the number in a line.

    Raises:
        MalformedReplyError: There is none.
    """
    if len(text) > _LINE_BYTES or not text.removeprefix(b"-").isdigit():
        message = "a reply without the number of its items or bytes"
        raise MalformedReplyError(message)
    return int(text)


def _checked_line(line: bytes) -> bytes | None:
    """Return the bytes of a first line that is not complete; None if it is."""
    if b"\n" in line:
        return None
    if len(line) > (_TEXT_LINE_BYTES if line[0] in _TEXTS else _LINE_BYTES):
        message = "the first line of a reply does not end"
        raise MalformedReplyError(message)
    return line
