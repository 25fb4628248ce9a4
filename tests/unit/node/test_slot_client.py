"""redis-py's client of a slot of a cluster, without servers."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

import pytest
import redis
from redis.exceptions import AskError, MovedError

from cachebackend.errors import RedirectedError
from cachebackend.node.slot_client import SlotClient
from cachebackend.node.translate import MalformedReplyError

A, B = ("a", 1), ("b", 2)


class Server(redis.Redis):
    """Answers each command with the next of its replies."""

    def __init__(self, replies: list[Any]) -> None:
        super().__init__()
        self.replies, self.commands = replies, list[Any]()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        del options
        self.commands.append(args)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, *args: Any, **options: Any) -> Any:
        del args, options
        return Asking(self)


class Asking:
    """A pipeline that returns errors."""

    def __init__(self, server: Server) -> None:
        self._server, self._replies = server, list[Any]()

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute_command(self, *args: Any) -> None:
        try:
            self._replies.append(self._server.execute_command(*args))
        except redis.RedisError as error:
            self._replies.append(error)

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return self._replies


class Table:
    """A table of two servers; the new owners are known after it was read again."""

    def __init__(self, *owners: tuple[str, int]) -> None:
        self._owners = list(owners)
        self.reloads: list[str] = []

    def primary_of(self, slot: int) -> tuple[str, int]:
        del slot
        return self._owners[0]

    def reached_at(self, asked: tuple[str, int], redirection: RedirectedError) -> tuple[str, int] | None:
        return None if redirection.host == "?" else (redirection.host or asked[0], redirection.port)

    def look_for(self, servers: Collection[Hashable]) -> None:
        del servers
        self.reloads.append("now")
        self._owners = self._owners[1:] or self._owners

    def reload_soon(self) -> None:
        self.reloads.append("soon")

    def note_unserved(self) -> None:
        self.reloads.append("unserved")


def client_of(table: Table, **replies: list[Any]) -> tuple[SlotClient, dict[str, Server]]:
    servers = {host: Server(each) for host, each in replies.items()}
    return SlotClient(table, 5, lambda host, _: servers[host]), servers


def test_a_command_that_was_moved_is_sent_to_the_new_owner() -> None:
    """The table is read again; the next commands, and pipelines, go there at once."""
    table = Table(A, B)
    client, servers = client_of(table, a=[MovedError("5 b:2")], b=["x", "y"])
    assert [client.execute_command("GET", "k") for _ in range(2)] == ["x", "y"]
    assert (table.reloads, len(servers["a"].commands)) == (["now"], 1)
    assert client.connection_pool is servers["b"].connection_pool


def test_a_command_is_sent_to_a_new_owner_of_which_the_table_does_not_know_yet() -> None:
    """The servers that are asked for the topology may hear of it later than the former owner."""
    table = Table(A)
    client, servers = client_of(table, a=[MovedError("5 b:2")], b=["x"])
    assert client.execute_command("GET", "k") == "x"
    assert (table.reloads, len(servers["a"].commands)) == (["now"], 1)


def test_a_command_for_another_slot_follows_the_table() -> None:
    """It is not read again if it has another owner than the server that was asked."""
    table = Table(A)
    client, servers = client_of(table, a=[MovedError("5 b:2")], b=["x"])
    asked = iter([A, B])
    table.primary_of = lambda _slot: next(asked)  # type: ignore[method-assign]  # the second slot has another owner
    assert client.execute_command("GET", "other") == "x"
    assert (table.reloads, len(servers["b"].commands)) == ([], 1)


def test_a_key_that_has_moved_already_is_asked_for() -> None:
    """The slot still has its owner, so the table is not read again; an error of the reply is raised."""
    table = Table(A)
    refused = redis.exceptions.NoScriptError("no such script")
    client, servers = client_of(table, a=[AskError("5 b:2")] * 2, b=["OK", "x", "OK", refused])
    assert client.execute_command("GET", "k") == "x"
    assert (table.reloads, servers["b"].commands) == ([], [("ASKING",), ("GET", "k")])
    with pytest.raises(redis.exceptions.NoScriptError):
        client.execute_command("EVALSHA", "0", 0)


def test_a_redirection_to_a_server_that_is_not_known_is_the_error() -> None:
    """A cluster that prefers hostnames has none for it."""
    client, servers = client_of(Table(A), a=[AskError("5 ?:2")])
    with pytest.raises(AskError):
        client.execute_command("GET", "k")
    assert len(servers["a"].commands) == 1


def test_servers_that_disagree_do_not_keep_a_command_in_a_loop() -> None:
    """The last redirection is the error."""
    client, servers = client_of(Table(A), a=[AskError("5 a:1"), *["OK", AskError("5 a:1")] * 9])
    with pytest.raises(AskError):
        client.execute_command("GET", "k")
    assert servers["a"].commands.count(("GET", "k")) == 6


def test_a_server_that_does_not_answer_is_asked_once() -> None:
    """The table is read again in the background: the next command finds a promoted replica."""
    table = Table(A)
    client, servers = client_of(table, a=[redis.exceptions.TimeoutError()])
    with pytest.raises(redis.exceptions.TimeoutError):
        client.execute_command("INCR", "k")
    assert (table.reloads, len(servers["a"].commands)) == (["soon"], 1)


def test_an_unserved_slot_lets_the_table_be_read_again() -> None:
    """The server may have left the cluster; the next command is sent to the present owner."""
    table = Table(A)
    client, _ = client_of(table, a=[redis.exceptions.ClusterDownError("Hash slot not served")])
    with pytest.raises(redis.exceptions.ClusterDownError):
        client.execute_command("GET", "k")
    assert table.reloads == ["unserved"]


def test_a_script_runs_at_a_server_that_does_not_know_it() -> None:
    """After it was loaded once, its source is sent."""
    client, servers = client_of(Table(A), a=[b"0123456789", 1, 2])
    assert client.script_load("return 1") == b"0123456789"
    assert client.evalsha("0123456789", 1, "k") == 1
    assert client.evalsha("another", 1, "k") == 2
    assert [command[0] for command in servers["a"].commands] == ["SCRIPT LOAD", "EVAL", "EVALSHA"]


@pytest.mark.parametrize("reply", [AskError("16384 b:2"), ValueError("a reply that redis-py cannot read")])
def test_nonsense_is_a_failure_of_the_server(reply: Exception) -> None:
    """Also a redirection to a slot that no cluster has."""
    client, _ = client_of(Table(A), a=[reply])
    with pytest.raises(MalformedReplyError):
        client.execute_command("GET", "k")
