"""Commands of several keys become one command for each key, and their replies one reply."""

from __future__ import annotations

import pytest

from cachebackend.cluster.keys import commands_by_key, is_of_many_keys, joined_reply
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.ring.node_deletes import delete_command, release_command

FAILED, REFUSED = NodeUnavailableError("down"), NodeReplyError("NOSCRIPT")


@pytest.mark.parametrize(
    "command", [(b"GET", b"a"), (b"MGET", b"a"), delete_command([b"a"]), release_command(b"a", b"L")]
)
def test_a_command_of_one_key_is_sent_as_it_is(command: Command) -> None:
    """It is the same in a cluster."""
    assert not is_of_many_keys(command)


def test_a_script_for_each_key_is_called_for_each_key() -> None:
    """With its arguments, by its SHA-1 or with its source."""
    call = delete_command([b"a", b"b"])
    assert is_of_many_keys(call)
    assert commands_by_key(call) == [delete_command([b"a"]), delete_command([b"b"])]
    parts = commands_by_key(call.with_source)
    assert parts == [delete_command([b"a"]).with_source, delete_command([b"b"]).with_source]
    assert joined_reply(call, [1, 0]) == 1


def test_mget_becomes_get() -> None:
    """The reply is the list again."""
    command = (b"MGET", b"a", b"b")
    assert is_of_many_keys(command)
    assert commands_by_key(command) == [(b"GET", b"a"), (b"GET", b"b")]
    assert joined_reply(command, [b"1", None]) == [b"1", None]


@pytest.mark.parametrize(
    ("replies", "joined"), [([1, REFUSED], REFUSED), ([REFUSED, FAILED], FAILED), ([FAILED, 1], FAILED)]
)
def test_one_error_is_the_reply(replies: list[Reply], joined: Reply) -> None:
    """The error of a server that did not answer comes first: the command may have been executed there."""
    assert joined_reply((b"DEL", b"a", b"b"), replies) is joined
