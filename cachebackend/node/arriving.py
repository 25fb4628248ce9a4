"""Checks what arrives of a node's replies before hiredis gets it.

hiredis allocates a list of any length that a reply declares, also one inside of a list, and keeps a first
line that never ends. A value may hold the same bytes. So if some bytes look like the declaration of a long
list, which is rare, the replies are followed element by element, to see whether they are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cachebackend.effects import Command
from cachebackend.node.translate import LISTS, MalformedReplyError

__all__ = ["MAX_ITEMS", "Arriving"]

#: The most items of a list in a reply; a command may have more keys, and its reply as many items.
MAX_ITEMS = 1_000_000
#: Declares at least ten thousand items, if it is not a part of a value. What is before it does not matter, as
#: hiredis takes any two bytes for the line break after a value. The line break, found fast, comes first.
_LONG_LIST = re.compile(
    rb"\r\n(?<=\d{5}\r\n)(?:%b)" % b"|".join(rb"(?<=[*%%~>|]\d{%d}\r\n)" % digits for digits in range(5, 20))
)
#: The first byte of an element that has a length: that number of bytes follows its line, and a line break.
_WITH_LENGTH = frozenset(b"$=!")
#: The first byte of a reply whose first line is a text, an error or a long number.
_TEXTS = frozenset(b"+-(,")
#: The most bytes of the first line of a reply: of such a one, and of another one, which holds a number.
_TEXT_LINE_BYTES, _LINE_BYTES = 65_536, 24
#: The fewest bytes of an element.
_ITEM_BYTES = 3
#: Bytes, and pieces of them, that are kept until they are followed: the value that they are a part of may be
#: long. A piece of one byte takes forty.
_KEPT_BYTES, _KEPT_PIECES = 1024**2, 1000


class Arriving:
    """The bytes that have arrived of the replies on one connection, since the last one was complete."""

    __slots__ = ("_chunks", "_edge", "_items", "_kept", "_line", "_received", "_skipped")

    def __init__(self) -> None:
        self.end()

    def end(self) -> None:
        """Record that a reply is complete, and that nothing of the next one has arrived."""
        self._chunks: list[bytes] = []
        self._kept = 0
        #: The last bytes, which may be the beginning of a declaration.
        self._edge = b""
        #: The first line of the next reply, as far as it has arrived; None: it is complete, or it has arrived
        #: together with an earlier reply.
        self._line: bytes | None = b""
        #: The items of the lists that were followed, and all bytes.
        self._items = self._received = 0
        #: How many of the next bytes belong to a value.
        self._skipped = 0

    def more(self) -> None:
        """Record that a reply is complete, and that bytes of the next one have arrived with it."""
        self._line = None

    def check(self, data: bytes, commands: Iterable[Command]) -> None:
        """Check bytes that have arrived; the parser may get them next.

        Args:
            data: The bytes.
            commands: The commands of whose replies they are a part.

        Raises:
            MalformedReplyError: They declare a list with more items than the reply to any command has, or
                lists in lists that have more together, or a line is too long.
        """
        self._received += len(data)
        if self._line is not None:
            self._line = _checked_line(self._line + data)
        if self._skipped:
            rest = data[self._skipped :]
            self._skipped -= len(data) - len(rest)
            if not rest:
                return
            data = rest
        edge = self._edge + data[:_LINE_BYTES]
        self._edge = data[-_LINE_BYTES:] if len(data) >= _LINE_BYTES else edge[-_LINE_BYTES:]
        self._chunks.append(data)
        self._kept += len(data)
        is_long = self._kept > _KEPT_BYTES or len(self._chunks) > _KEPT_PIECES
        if is_long or _LONG_LIST.search(edge) or _LONG_LIST.search(data):
            self._follow(commands)

    def _follow(self, commands: Iterable[Command]) -> None:
        """Follow the elements that have arrived, and forget those that are complete."""
        data, position, most = b"".join(self._chunks), 0, MAX_ITEMS
        while (end := data.find(b"\r\n", position)) >= 0:
            kind, number = data[position], data[position + 1 : end]
            if kind in LISTS:
                items = _number(number)
                self._items += max(items, 0)
                # Complete lists have all of their items. The others are in one another, and one is long
                items = max(items, (self._items - self._received // _ITEM_BYTES) // 2)
                if items > most and items > (most := max(most, max(map(len, commands), default=0))):
                    message = f"a reply with more than {most:,} items"
                    raise MalformedReplyError(message)
            following = end + 2
            if kind in _WITH_LENGTH and (length := _number(number)) >= 0:
                following += length + 2
            if following > len(data):
                self._skipped, following = following - len(data), len(data)
            position = following
        self._chunks, self._kept = [data[position:]], len(data) - position
        if self._skipped:
            self._edge = b""
        elif self._kept > _TEXT_LINE_BYTES:
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
