"""Scripts as commands, and operations side by side."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Any

import pytest

from cachebackend.effects import (
    Operation,
    Script,
    Send,
    Sleep,
    is_unknown_script,
    resumed,
    sharing_first_scatter,
    side_by_side,
)
from cachebackend.errors import NodeReplyError, NodeUnavailableError, RingCacheError
from cachebackend.replies import integer

SCRIPT = Script("cachebackend.protocol.ring", "delete", reply=integer)


def test_a_script_is_called_by_its_sha1() -> None:
    """With its keys and arguments; the same call can carry the source."""
    call = SCRIPT.call([b"k", b"l"], b"1", b"x")
    assert call == (b"EVALSHA", sha1(SCRIPT.source).hexdigest(), b"2", b"k", b"l", b"1", b"x")
    assert call.with_source == (b"EVAL", SCRIPT.source, b"2", b"k", b"l", b"1", b"x")
    assert call.script is SCRIPT


def test_a_script_begins_with_its_preludes() -> None:
    """In their order."""
    parts = [Script("cachebackend.protocol.queue", name, reply=integer).source for name in ("seal", "close")]
    assert Script("cachebackend.protocol.queue", "close", "seal", reply=integer).source == b"".join(parts)


def test_the_source_is_sent_without_comments() -> None:
    """With ``durability="fsync"`` each write sends it; no statement is lost."""
    source = Script("cachebackend.protocol.queue", "fold", "row_operations", reply=integer).source
    lines = [line.strip() for name in ("row_operations", "fold") for line in lines_of(name)]
    assert source.splitlines() == [line for line in lines if line and not line.startswith(b"--")]
    assert len(source) < sum(map(len, (b"".join(lines_of(name)) for name in ("row_operations", "fold"))))


def lines_of(name: str) -> list[bytes]:
    return files("cachebackend.protocol.queue").joinpath(f"{name}.lua").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (NodeReplyError("NOSCRIPT No matching script"), True),
        (NodeReplyError("OOM"), False),
        (NodeUnavailableError("NOSCRIPT"), False),
        (b"NOSCRIPT", False),
        (None, False),
    ],
)
def test_only_noscript_means_that_nothing_ran(reply: object, expected: bool) -> None:
    """Then the script may be sent again, whole."""
    assert is_unknown_script(reply) is expected


def test_operations_side_by_side_send_together() -> None:
    """Each gets its own replies; if one raises, its error is its result; one may end before the others."""

    def operation(name: bytes, rounds: int) -> Operation[list[Any]]:
        replies: list[Any] = []
        for number in range(rounds):
            replies += yield Send([(number, (name,))] * (number + 1))
        if name == b"bad":
            raise RingCacheError(replies)
        return replies

    together = side_by_side([operation(b"a", 2), operation(b"none", 0), operation(b"bad", 1)])
    first = next(together)
    assert first == Send([(0, (b"a",)), (0, (b"bad",))])
    assert together.send([1, 2]) == Send([(1, (b"a",)), (1, (b"a",))])
    with pytest.raises(StopIteration) as ended:
        together.send([3, 4])
    replies, nothing, error = ended.value.value
    assert (replies, nothing, error.args) == ([1, 3, 4], [], ([2],))


def test_operations_share_their_first_scatter() -> None:
    """Then each runs to its end, one after the other; some send nothing, or begin with another effect."""

    def reads(name: bytes, rounds: int) -> Operation[list[Any]]:
        replies: list[Any] = []
        for number in range(rounds):
            replies += yield Send([(number, (name,))] * (number + 1))
        return replies

    def sleeps() -> Operation[list[Any]]:
        return [(yield Sleep(1.0))]

    together = sharing_first_scatter([reads(b"a", 2), reads(b"none", 0), sleeps(), reads(b"b", 2)])
    assert next(together) == Send([(0, (b"a",)), (0, (b"b",))])
    assert together.send([1, 2]) == Send([(1, (b"a",)), (1, (b"a",))])
    assert together.send([3, 4]) == Sleep(1.0)
    assert together.send("slept") == Send([(1, (b"b",)), (1, (b"b",))])
    with pytest.raises(StopIteration) as end:
        together.send([5, 6])
    assert end.value.value == [[1, 3, 4], [], ["slept"], [2, 5, 6]]


def test_operations_that_share_a_scatter_are_closed_together() -> None:
    """If one of them raises, the others give back what they hold."""
    ended: list[str] = []

    def operation(name: str) -> Operation[None]:
        try:
            yield Send([])
            raise RingCacheError(name)
        finally:
            ended.append(name)

    together = sharing_first_scatter([operation("a"), operation("b")])
    with pytest.raises(RingCacheError):
        next(together)
    assert ended == ["a", "b"]


def test_an_operation_continues_after_its_first_effect() -> None:
    """It gets the result of that effect, of the next ones, and errors, as if one driver performed all."""

    def operation() -> Operation[list[Any]]:
        found = [(yield Send([(0, (b"A",))]))]
        try:
            yield Send([(0, (b"B",))])
        except RingCacheError as error:
            found.append(error)
        return found

    begun = operation()
    next(begun)
    rest = resumed(begun, "first")
    assert next(rest) == Send([(0, (b"B",))])
    error = RingCacheError("no")
    with pytest.raises(StopIteration) as end:
        rest.throw(error)
    assert end.value.value == ["first", error]


def test_an_operation_that_continues_is_closed_with_what_runs_it() -> None:
    """It then gives back what it holds."""
    ended: list[str] = []

    def operation() -> Operation[None]:
        try:
            yield Send([])
            yield Send([])
        finally:
            ended.append("closed")

    begun = operation()
    next(begun)
    rest = resumed(begun, [])
    next(rest)
    rest.close()
    assert ended == ["closed"]
