"""The shapes of replies."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.effects import Script, ScriptCall
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.queue.pending_writes import _PENDING
from cachebackend.replies import (
    either,
    fits,
    integer,
    items,
    list_of,
    optional_text,
    pairs,
    row,
    scored,
    text,
)

PAGE = [b"0", [b"a", b"b"]]
ERROR = NodeReplyError("ERR x")


@pytest.mark.parametrize(
    ("command", "fitting", "others"),
    [
        ((b"GET", b"k"), [b"v", None], [1, [], [b"v"], True, 1.5, {}]),
        ((b"MGET", b"k", b"l"), [[b"v", None]], [None, b"v", [], [b"v"], [b"v", 1], [b"v", ERROR]]),
        ((b"PTTL", b"k"), [-2, 5], [None, b"5", True, [5]]),
        ((b"HGETALL", b"k"), [[], [b"a", b"1"]], [None, {}, [b"a"], [b"a", 1], [b"a", None]]),
        ((b"SCAN", b"0"), [PAGE], [None, [], [b"0"], [b"0", None], [0, []], [b"0", [1]], [b"0", [], []]]),
        ((b"ZRANGE", b"k"), [[], [b"a", b"1e3"]], [[b"a", b"x"], [b"a", b"nan"], [b"a", b"inf"], [b"a"]]),
        ((b"WAITAOF", 1, 0, 1), [[1, 0]], [1, [1], [b"1", 0]]),
        ((b"FCALL", b"f"), [1, None, {}], []),
    ],
)  # fmt: skip
def test_a_reply_has_the_shape_of_its_command(
    command: tuple[Any, ...], fitting: list[Any], others: list[Any]
) -> None:
    """An error always fits; so does any reply to a command that is not listed."""
    for reply in (*fitting, ERROR, NodeUnavailableError("x")):
        assert fits(command, reply), reply
    for reply in others:
        assert not fits(command, reply), reply


def test_a_reply_has_the_shape_of_its_script() -> None:
    """Called by its SHA-1 or with its source."""
    call = Script("cachebackend.protocol.ring", "delete", reply=integer).call([b"k"])
    for command in (call, call.with_source):
        assert isinstance(command, ScriptCall)
        assert fits(command, 1)
        assert not fits(command, b"1")


def test_shapes_combine() -> None:
    """Alternatives, lists, rows, and lists with a first item of another shape."""
    command = (b"X",)
    assert either(integer, text)(b"x", command)
    assert not either(integer, text)(None, command)
    assert list_of(optional_text)([], command)
    assert not list_of(text)([None], command)
    assert row(integer, text)([1, b"x"], command)
    assert not row(integer, text)([1, b"x", b"y"], command)
    assert items(integer, text)([1], command)
    assert items(integer, text)([1, b"x", b"y"], command)
    assert not items(integer, text)([], command)
    assert not items(integer, text)([b"x"], command)
    assert pairs([b"a", b"b"], command)
    assert not scored([b"a", b""], command)


def test_a_batch_has_a_value_for_each_field() -> None:
    """``pending`` pairs them by their position."""
    call = _PENDING.call([b"meta", b"batch"], 1, b"f", b"g")
    numbers = [b"born", b"1", b"0", b""]
    assert fits(call, [])
    assert fits(call, [numbers])
    assert fits(call, [numbers, [1, b"", [b"v", None], b""]])
    assert not fits(call, [numbers, [1, b"", [b"v"], b""]])
    assert not fits(call, [numbers, [b"1", b"", [b"v", None], b""]])
    assert not fits(call, None)
