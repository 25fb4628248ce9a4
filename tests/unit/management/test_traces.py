from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from cachebackend.management.traces import Trace, TraceError, read_trace

ARC = "7 1 0 0\n9 2 0 1\n7 1 0 2\n"
CLOUDPHYSICS = "1,0,28,4096,55\n1,1,2a,4096,56\n1,2,28,512,55\n"
TWITTER = "0,abc,3,10,1,get,0\n1,def,3,10,2,set,60\n2,abc,3,10,1,gets,0\n"


def requests(trace: Trace) -> list[tuple[int, int]]:
    return [(trace.names[block], write) for block, write in zip(trace.blocks, trace.writes, strict=True)]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        case ".zst":
            path.write_bytes(zstandard.compress(text.encode()))
        case _:
            path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ARC, [(7, 0), (9, 0), (10, 0), (7, 0)]),
        (CLOUDPHYSICS, [(55, 0), (56, 1), (55, 0)]),
        (TWITTER, [(0, 0), (1, 1), (0, 0)]),
    ],
    ids=["arc", "cloudphysics", "twitter"],
)
def test_each_format_is_known_by_its_first_line(
    tmp_path: Path, text: str, expected: list[tuple[int, int]], suffix: str
) -> None:
    """Plain or compressed; an ARC line of two blocks is two requests, a Twitter key is numbered."""
    assert requests(read_trace(write(tmp_path, f"trace{suffix}", text))) == expected


def test_only_the_first_requests_are_read_if_asked(tmp_path: Path) -> None:
    """The rest of the file is not read."""
    assert len(read_trace(write(tmp_path, "trace", ARC + "broken"), limit=3)) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello world\n", "line 1: unknown format"),
        (
            ARC + "7 1 0\n",
            "line 4: not 'first block, number of blocks, ignored, request number': '7 1 0'; 4 requests",
        ),
        (CLOUDPHYSICS + "1,0,99,1,1\n", "line 4: not 'version,time,op,size,lbn' with op 28 or 2a"),
        (TWITTER + "1\n", "line 4: not 'time,key,"),
        ("7 1000000000000 0 0\n", "unknown format"),
        (ARC + "7 0 0 0\n", "line 4: a request has 1 to 1000000 blocks, not 0"),
        (ARC + "-7 1 0 0\n", "line 4: a block's number is from 0 to 2^63 - 1, not -7"),
        ("", "has no requests"),
        ("\xff\xfe", "line 1"),
    ],
)
def test_a_broken_trace_names_its_line(tmp_path: Path, text: str, says: str) -> None:
    """And how many requests before it were read."""
    with pytest.raises(TraceError) as raised:
        read_trace(write(tmp_path, "trace", text))
    assert says in str(raised.value)


def test_a_compressed_trace_that_is_cut_off_names_its_line(tmp_path: Path) -> None:
    """Such as a download that was interrupted."""
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress((ARC * 5000).encode())[:-20])
    with pytest.raises(TraceError, match=r"trace.gz: line \d+: the compressed file is cut off"):
        read_trace(path)


@pytest.mark.parametrize("content", [b"no zstd at all", zstandard.compress((ARC * 5000).encode())[:-20]])
def test_a_zstandard_trace_that_is_broken_is_an_error(tmp_path: Path, content: bytes) -> None:
    """It is not read as a shorter trace."""
    path = tmp_path / "trace.zst"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"trace.zst: line \d+: "):
        read_trace(path)


def test_a_header_of_column_names_is_skipped(tmp_path: Path) -> None:
    """CloudPhysics traces have one."""
    assert len(read_trace(write(tmp_path, "trace", "version,time,op,size,lbn\n" + CLOUDPHYSICS))) == 3


def test_a_missing_trace_is_an_error(tmp_path: Path) -> None:
    """The message names its path."""
    with pytest.raises(TraceError, match="nothing.lis: there is no such file"):
        read_trace(tmp_path / "nothing.lis")


def test_a_share_of_the_reads_becomes_writes_by_the_seed(tmp_path: Path) -> None:
    """The same for the same seed; a trace that has writes already is refused."""
    trace = read_trace(write(tmp_path, "trace", ARC * 500))
    once, again, other = (trace.with_writes(0.25, seed).writes for seed in (1, 1, 2))
    assert once == again != other
    assert 0.2 < sum(once) / len(once) < 0.3
    with pytest.raises(TraceError, match="the trace has writes already"):
        read_trace(write(tmp_path, "other", CLOUDPHYSICS)).with_writes(0.1, 0)
