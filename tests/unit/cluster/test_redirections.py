"""Where redirected commands go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cachebackend.cluster import Cluster, ShardNode
from cachebackend.cluster.reloads import PAUSE_SECONDS
from cachebackend.cluster.topology import Server
from cachebackend.drivers import FailedNodes, note_failure
from cachebackend.effects import Command, Reply
from cachebackend.errors import ConfigurationError, NodeUnavailableError, RedirectedError
from cachebackend.node import Node
from cachebackend.node.translate import reply_error
from cachebackend.protocol.ring.node_deletes import confirm_command
from tests.unit.cluster.shards import HALF, HIGH, LOW, A, B, C, D, E, topology
from tests.unit.test_clock import HeldClock

GET, SET = (b"GET", b"bar"), (b"SET", b"bar", b"1")
MOVED_TO_B = RedirectedError.read("MOVED 5061 b.test:7000")
ASK_B = RedirectedError.read("ASK 5061 b.test:7000")


class Answers:
    """Stands for the servers: what each node is sent, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *replies: list[Reply]) -> None:
        self.sent: list[tuple[str, list[Command]]] = []
        left, sent = iter(replies), self.sent

        def answer(node: Node, commands: Sequence[Command]) -> list[Reply]:
            sent.append((node.name, list(commands)))
            return next(left)

        class Received:
            def __init__(self, replies: list[Reply]) -> None:
                self._replies = replies

            def receive(self) -> list[Reply]:
                return self._replies

        async def submit(node: Node, commands: Sequence[Command]) -> list[Reply]:
            return answer(node, commands)

        monkeypatch.setattr(Node, "send", lambda node, commands: Received(answer(node, commands)))
        monkeypatch.setattr(Node, "submit", submit)


def follow(cluster: Cluster, replies: list[Reply], *, is_async: bool = False) -> list[Reply]:
    commands = [GET, SET, (b"PING",)][: len(replies)]
    if is_async:
        return asyncio.run(cluster.follow_async(cluster.nodes[0], commands, replies))
    return cluster.follow(cluster.nodes[0], commands, replies)


@pytest.mark.parametrize("is_async", [False, True])
def test_only_what_was_moved_is_sent_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """Together; the slot belongs to the other shard from now on."""
    answers = Answers(monkeypatch, [b"1", b"OK"])
    assert follow(cluster, [MOVED_TO_B, MOVED_TO_B, b"PONG"], is_async=is_async) == [b"1", b"OK", b"PONG"]
    assert answers.sent == [("b.test:7000", [GET, SET])]
    assert cluster.ring.owner(b"bar") == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_being_moved_is_asked_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """Each command comes after ASKING; the slot stays with its owner."""
    answers = Answers(monkeypatch, [b"OK", b"1", b"OK", b"OK"])
    assert follow(cluster, [ASK_B, ASK_B], is_async=is_async) == [b"1", b"OK"]
    assert answers.sent == [("b.test:7000", [(b"ASKING",), GET, (b"ASKING",), SET])]
    assert cluster.ring.owner(b"bar") == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failure_of_another_server_is_not_one_of_the_server_that_was_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """The rest of the operation is still sent to this one."""
    Answers(monkeypatch, [NodeUnavailableError("down")] * 2)
    replies = follow(cluster, [b"1", ASK_B], is_async=is_async)
    failed: FailedNodes = {}
    note_failure(0, replies[-1], failed)
    assert (isinstance(replies[-1], NodeUnavailableError), failed) == (True, {})


@pytest.mark.parametrize("redirection", [MOVED_TO_B, ASK_B])
def test_a_confirmation_is_not_followed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, redirection: RedirectedError
) -> None:
    """The other server would confirm that its own replicas follow it."""
    answers = Answers(monkeypatch, [b"OK", 1])
    [reply] = cluster.follow(cluster.shards[0], [confirm_command(b"bar")], [redirection])
    assert isinstance(reply, NodeUnavailableError)
    assert (reply.ejects, answers.sent) == (False, [])


def test_a_user_that_may_not_run_asking_is_the_error(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is not sent to and fro between the two servers; if the move is over, it was executed."""
    refused = reply_error("NOPERM User few has no permissions to run the 'asking' command")
    moved_back = RedirectedError.read("MOVED 5061 a.test:7000")
    answers = Answers(monkeypatch, [refused, moved_back, refused, b"OK"])
    first, second = follow(cluster, [ASK_B, ASK_B])
    assert (second, len(answers.sent)) == (b"OK", 1)
    assert isinstance(first, NodeUnavailableError)
    assert ("refuses ASKING: NOPERM" in str(first), first.ejects) == (True, False)


def test_servers_that_disagree_are_asked_a_few_times(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the reply is an error that ejects no node."""
    answers = Answers(monkeypatch, *[[MOVED_TO_B]] * 5)
    [reply] = follow(cluster, [MOVED_TO_B])
    assert isinstance(reply, NodeUnavailableError)
    assert ("redirected a command 5 times" in str(reply), reply.ejects, len(answers.sent)) == (True, False, 5)


def test_an_unknown_server_is_looked_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The topology is read at once; a server that it does not name gets no command."""

    def reload() -> None:
        cluster._apply(topology((A, [C], [LOW]), (B, [D], [(HALF, HALF)]), (E, [], [(HALF + 1, HIGH[1])])))

    monkeypatch.setattr(cluster, "reload", reload)
    answers = Answers(monkeypatch, [b"1"])
    unknown: list[Reply] = [RedirectedError.read(f"MOVED 5061 {name}.test:7000") for name in "ef"]
    first, second = follow(cluster, unknown)
    assert (first, answers.sent) == (b"1", [("e.test:7000", [GET])])
    assert isinstance(second, NodeUnavailableError)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_server_that_no_topology_has_does_not_let_each_command_read_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """It hangs, and one server alone has given it a slot. After a pause it is looked for again at once."""
    clock, reads = HeldClock(), list[str]()
    monkeypatch.setattr(cluster, "_clock", clock)
    monkeypatch.setattr(cluster, "reload", lambda: reads.append("now"))
    monkeypatch.setattr(cluster, "reload_soon", lambda: reads.append("soon"))
    for passed in (0.0, PAUSE_SECONDS / 2, PAUSE_SECONDS):
        clock.seconds += passed
        [reply] = follow(cluster, [RedirectedError.read("MOVED 5061 e.test:7000")], is_async=is_async)
        assert isinstance(reply, NodeUnavailableError)
    follow(cluster, [RedirectedError.read("MOVED 5061 f.test:7000")], is_async=is_async)
    assert reads == ["now", "soon", "now", "now"]


def test_a_redirection_without_a_host_means_the_host_that_was_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server answers that does not know its own host."""
    cluster._apply(topology((A, [C], [LOW]), (Server("b", "a.test", 7001), [D], [HIGH])))
    answers = Answers(monkeypatch, [b"1"])
    assert follow(cluster, [RedirectedError.read("MOVED 5061 :7001")]) == [b"1"]
    assert answers.sent == [("a.test:7001", [GET])]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_second_redirection_without_a_host_means_the_host_that_was_asked_last(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """The slot has moved on."""
    monkeypatch.setattr(cluster, "reload", lambda: None)
    on_b = Server("e", "b.test", 7001)
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [(HALF, HALF)]), (on_b, [], [(HALF + 1, HIGH[1])])))
    for shard in cluster.shards.values():
        assert shard.breaker is not None
        shard.breaker.close()
    answers = Answers(monkeypatch, [RedirectedError.read("MOVED 5061 :7001")], [b"1"])
    assert follow(cluster, [MOVED_TO_B], is_async=is_async) == [b"1"]
    assert answers.sent == [("b.test:7000", [GET]), ("b.test:7001", [GET])]


def test_a_redirection_to_an_address_that_cannot_be_translated_is_an_error_of_the_server(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read misses then; the error of the settings is not raised in it."""

    def fail(host: str, port: int) -> tuple[str, int]:
        raise ConfigurationError([f"address_map: {host}:{port}"])

    monkeypatch.setattr(cluster, "_address_map", fail)
    monkeypatch.setattr(cluster, "reload", lambda: None)
    for text in ("MOVED 5061 e.test:7000", "ASK 5061 e.test:7000"):
        [reply] = follow(cluster, [RedirectedError.read(text)])
        assert isinstance(reply, NodeUnavailableError)


def test_a_primary_that_gets_its_first_slot_is_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table does not name it before it owns a slot; then it is the same shard, and is not ejected."""
    monkeypatch.setattr(cluster, "reload", lambda: None)
    answers = Answers(monkeypatch, [b"OK", b"1"], [b"OK", b"1"])
    for _ in range(2):
        assert follow(cluster, [RedirectedError.read("ASK 5061 e.test:7000")]) == [b"1"]
    assert answers.sent == [("e.test:7000", [(b"ASKING",), GET])] * 2
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [(HALF, HALF)]), (E, [], [(HALF + 1, HIGH[1])])))
    assert [shard.name for shard in cluster.shards.values()] == ["a.test:7000", "b.test:7000", "e.test:7000"]
    assert cluster.ring.owner_of_slot(HIGH[1]) == 2
    breaker = cluster.shards[2].breaker
    assert breaker is not None
    assert not breaker.is_open


def test_a_former_replica_of_a_shard_without_slots_is_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No topology names its primary any more, so it may have become a primary that gets its first slot."""
    monkeypatch.setattr(cluster, "reload", lambda: None)
    monkeypatch.setattr(ShardNode, "hold", lambda self, reason: None)
    cluster._apply(topology((A, [C], [LOW, HIGH])))
    answers = Answers(monkeypatch, [b"OK", b"1"])
    assert follow(cluster, [RedirectedError.read("ASK 5061 d.test:7000")]) == [b"1"]
    assert answers.sent == [("d.test:7000", [(b"ASKING",), GET])]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_unserved_slot_lets_the_table_be_read_once_a_second(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """A server that has left the cluster refuses every command, and redirects none."""
    reloads: list[int] = []
    monkeypatch.setattr(cluster, "reload_soon", lambda: reloads.append(1))
    unserved = reply_error("CLUSTERDOWN Hash slot not served")
    assert follow(cluster, [unserved], is_async=is_async) == [unserved]
    assert len(reloads) == 1
    cluster._retry_at = cluster._clock.monotonic() + 60
    follow(cluster, [unserved], is_async=is_async)
    assert len(reloads) == 1


def test_a_replica_that_the_table_has_not_as_a_primary_is_not_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was promoted, and has not got the deletes yet that the old primary has missed."""
    monkeypatch.setattr(cluster, "reload", lambda: None)
    answers = Answers(monkeypatch)
    [reply] = follow(cluster, [RedirectedError.read("ASK 5061 d.test:7000")])
    assert isinstance(reply, NodeUnavailableError)
    assert answers.sent == []
