"""Reads traces: files of requests, as reads and writes of numbered blocks.

The first line decides which format a file has:

- ARC (``.lis``): ``first block, number of blocks, ignored, request number``, with blanks; all reads.
- CloudPhysics (``.csv``): ``version,time,op,size,lbn``; op ``28`` reads, ``2a`` writes.
- Twitter (``.csv``): ``time,key,key size,value size,client,operation,TTL``; ``get`` and ``gets``
  read, every other operation writes.

A file is plain, or compressed as ``.gz`` or ``.zst``.
"""

from __future__ import annotations

import random
import zlib
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from cachebackend.interrupts import raise_interrupt

__all__ = ["Trace", "TraceError", "read_trace"]

#: The request of one line: its blocks, by number or by name, and whether it writes them.
Request: TypeAlias = tuple[Iterable[int | str], bool]
#: The SCSI operations of CloudPhysics, in hexadecimal, and whether each writes.
_SCSI = {"28": False, "2a": True}
#: The first line of some of its files.
CLOUDPHYSICS_HEADER = "version,time,op,size,lbn"
#: The most blocks of one request of an ARC trace.
MAX_BLOCKS = 1_000_000
#: How much of a file is read at once.
PIECE_BYTES = 65_536
_TWITTER_READS = frozenset({"get", "gets"})


class TraceError(Exception):
    """A trace cannot be read; the message names the file and the line."""


@dataclass
class Trace:
    """A sequence of requests.

    Attributes:
        blocks: The block of each request, as an index into ``names``.
        writes: For each request 1 if it writes, else 0.
        names: The number of each block; blocks that have names instead are numbered in the order
            of their first use.
    """

    blocks: array[int] = field(default_factory=lambda: array("L"))
    writes: bytearray = field(default_factory=bytearray)
    names: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.blocks)

    @classmethod
    def of_reads(cls, keys: Sequence[Hashable]) -> Trace:
        """Return a trace that reads keys, which are numbered in the order of their first use."""
        numbers: dict[Hashable, int] = {}
        blocks = array("L", (numbers.setdefault(key, len(numbers)) for key in keys))
        return cls(blocks, bytearray(len(keys)), list(range(len(numbers))))

    def with_writes(self, share: float, seed: int) -> Trace:
        """Return the trace with a share of its requests turned into writes, chosen at random by a seed.

        Raises:
            TraceError: The trace has writes already.
        """
        if any(self.writes):
            message = "the trace has writes already; --writes is for a trace of reads only"
            raise TraceError(message)
        chance = random.Random(seed)  # noqa: S311  # a workload, not a secret
        writes = bytearray(chance.random() < share for _ in range(len(self)))
        return Trace(self.blocks, writes, self.names)


def read_trace(path: Path, limit: int | None = None) -> Trace:
    """Read a trace, or its first requests.

    Args:
        path: The file.
        limit: The most requests to read; None: all.

    Raises:
        TraceError: The file is missing, empty, broken, or of an unknown format.
    """
    trace = Trace()
    indexes: dict[int | str, int] = {}
    for block, writes in islice(_requests(path), limit):
        index = indexes.setdefault(block, len(indexes))
        if index == len(trace.names):
            trace.names.append(block if isinstance(block, int) else index)
        trace.blocks.append(index)
        trace.writes.append(writes)
    if not trace.blocks:
        message = f"{path}: has no requests"
        raise TraceError(message)
    return trace


def _requests(path: Path) -> Iterator[tuple[int | str, bool]]:
    parse: Callable[[str], Request] | None = None
    number = done = 0
    try:
        for number, line in enumerate(_lines(path), 1):
            text = line.decode("ascii").strip()
            if not text or (number == 1 and text.replace(" ", "") == CLOUDPHYSICS_HEADER):
                continue
            parse = parse or _format(text)
            blocks, writes = parse(text)
            for block in blocks:
                yield block, writes
                done += 1
    except FileNotFoundError:
        message = f"{path}: there is no such file"
        raise TraceError(message) from None
    except _UnpackError as error:  # the lines before it were read, so the next one is broken
        message = f"{path}: line {number + 1}: {error}; {done} requests before it were read"
        raise TraceError(message) from error
    except (OSError, ValueError) as error:
        message = f"{path}: line {max(number, 1)}: {error}; {done} requests before it were read"
        raise TraceError(message) from error


class _UnpackError(Exception):
    """A compressed file is damaged."""


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked. If the file is damaged, yield the lines before the damage."""
    rest = b""
    for piece in _pieces(path):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked."""
    with path.open("rb") as file:
        unpack = _UNPACKERS.get(path.suffix, lambda: None)()
        if unpack is None:
            yield from iter(lambda: file.read(PIECE_BYTES), b"")
            return
        while packed := file.read(PIECE_BYTES):
            try:
                yield unpack.decompress(packed)
            except Exception as error:
                raise_interrupt(error)
                raise _UnpackError(str(error)) from error
        if not unpack.eof:
            message = "the compressed file is cut off"
            raise _UnpackError(message)


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        message = "reading .zst needs: pip install 'django-ringcache[demo]'"
        raise ValueError(message) from None
    return zstandard.ZstdDecompressor().decompressobj()


_UNPACKERS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16),  # with gzip's header
    ".zst": _zstd,
}


def _format(line: str) -> Callable[[str], Request]:
    """Return the parser of the format that a file's first line has."""
    for parse in (_arc, _cloudphysics, _twitter):
        try:
            parse(line)
        except ValueError:
            continue
        return parse
    message = f"unknown format; known are ARC .lis, CloudPhysics .csv and Twitter .csv: {line[:60]!r}"
    raise ValueError(message)


def _arc(line: str) -> Request:
    try:
        first, count, _, _ = map(int, line.split())
    except ValueError:
        message = f"not 'first block, number of blocks, ignored, request number': {line[:60]!r}"
        raise ValueError(message) from None
    if not 0 < count <= MAX_BLOCKS:
        message = f"a request has 1 to {MAX_BLOCKS} blocks, not {count}"
        raise ValueError(message)
    return range(_block(first), first + count), False


def _cloudphysics(line: str) -> Request:
    try:
        _, _, operation, _, block = line.split(",")
        number, writes = int(block), _SCSI[operation.strip().lower()]
    except (KeyError, ValueError):
        message = f"not 'version,time,op,size,lbn' with op 28 or 2a: {line[:60]!r}"
        raise ValueError(message) from None
    return (_block(number),), writes


def _twitter(line: str) -> Request:
    try:
        _, key, _, _, _, operation, ttl = line.split(",")
        int(ttl)
    except ValueError:
        message = f"not 'time,key,key size,value size,client,operation,TTL': {line[:60]!r}"
        raise ValueError(message) from None
    return (key,), operation not in _TWITTER_READS


def _block(number: int) -> int:
    if not 0 <= number < 2**63:
        message = f"a block's number is from 0 to 2^63 - 1, not {str(number)[:40]}"
        raise ValueError(message)
    return number
