"""A client made from the options of an alias; it is never connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from threading import Timer
from typing import Any

import pytest

from cachebackend.client import RingClient
from cachebackend.cluster import ShardNode
from cachebackend.effects import Command, Reply
from cachebackend.errors import RedirectedError
from cachebackend.node import Node
from cachebackend.options import RingOptions
from cachebackend.protocol import KeyScan, clear, flush
from cachebackend.protocol.missed_deletes import MissedKeys
from cachebackend.ring import seed_of, slot_of
from tests.unit.cluster.shards import HIGH, LOW, A, B, C, E, topology
from tests.unit.test_clock import HeldClock

OLD = ["redis://h:1?name=a", "redis://h:2?name=b"]
CLUSTER = "redis+cluster://h:7000"
NEW = [*OLD, "redis://h:3?name=c"]
SENTINEL = "redis+sentinel://h/primary?name=s"
KEYS = [b"key:%d" % number for number in range(16)]
OWNERS = "acaabcaabaabbbba"


class Received:
    """Stands for replies that have arrived."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = replies

    def receive(self) -> list[Reply]:
        return self._replies


def client_of(location: Any = OLD, **options: Any) -> RingClient:
    return RingClient(RingOptions.read(location, options, "CACHES"))


def test_a_ring_alone_has_no_other_nodes() -> None:
    """No ring change, no gutter, no near cache."""
    client = client_of()
    assert [node.name for node in client.nodes] == ["a", "b"]
    assert (client.context.ring_change, client.context.gutter, client.context.near) == (None, None, None)
    assert client.has_near_copy(b"k") is None


@pytest.mark.parametrize(
    ("location", "options", "is_old", "is_warm"),
    [
        (OLD, {"joining": NEW}, False, False),
        (NEW, {"leaving": OLD}, True, True),
        (NEW, {"leaving": OLD, "warm": False}, True, False),
    ],
)
def test_the_other_ring_shares_the_nodes_of_the_same_server(
    location: list[str], options: dict[str, Any], is_old: bool, is_warm: bool
) -> None:
    """A server has one connection pool and one breaker, also if both rings name it."""
    client = client_of(location, **options)
    change = client.context.ring_change
    assert change is not None
    assert [node.name for node in client.nodes] == ["a", "b", "c"]
    assert (change.is_old, change.is_warm) == (is_old, is_warm)
    assert change.nodes == ((0, 1) if is_old else (0, 1, 2))


def test_the_gutter_stores_the_keys_of_ejected_nodes() -> None:
    """Its nodes come after the nodes of the ring; its timeout is in milliseconds."""
    client = client_of(gutter=["redis://h:9?name=spare"], gutter_timeout=2.5)
    gutter = client.context.gutter
    assert gutter is not None
    assert (gutter.nodes, gutter.max_ttl_ms) == ((2,), 2500)
    node = client.ring.owner(b"k")
    assert client.context.serving_node(b"k") == node
    breaker = client.nodes[node].breaker
    assert breaker is not None
    breaker.failed(Exception("down"), at_once=True)
    assert client.context.serving_node(b"k") == 2


@pytest.mark.parametrize(
    ("location", "options"), [(OLD, {"joining": NEW}), (NEW, {"leaving": OLD}), (OLD, {"gutter": NEW[2:]})]
)
def test_all_rings_of_an_alias_have_the_seed_of_its_settings(
    location: list[str], options: dict[str, Any]
) -> None:
    """The ring, the other ring while the ring changes, and the gutter's."""
    client = client_of(location, hash_seed="s", **options)
    others = client.context.ring_change, client.context.gutter
    rings = [client.ring, *(other.ring for other in others if other is not None)]
    assert len(rings) == 2
    for ring in rings:
        assert [ring.slot_of(key) for key in KEYS] == [slot_of(key, seed_of("s")) for key in KEYS]


def test_an_alias_without_a_seed_has_the_owners_of_earlier_releases() -> None:
    """The owners are constants here: a change of them would move every user's keys."""
    assert "".join("abc"[client_of(NEW).ring.owner(key)] for key in KEYS) == OWNERS


@pytest.mark.parametrize(
    ("location", "options", "waiting"),
    [
        (OLD, {}, ["a", "b"]),
        (OLD, {"joining": NEW}, ["a", "b", "c"]),
        (OLD, {"joining": CLUSTER}, ["cluster"]),
        (CLUSTER, {"leaving": OLD}, ["cluster"]),
        (CLUSTER, {"leaving": [*OLD, SENTINEL]}, ["cluster", "s"]),
        (OLD, {"gutter": NEW[2:]}, ["a", "b", "c"]),
        (SENTINEL, {"gutter": NEW[2:]}, ["s"]),
        (SENTINEL, {"leaving": OLD}, ["s"]),
        (OLD, {"joining": [SENTINEL]}, ["s"]),
    ],
)
def test_beside_servers_with_a_failover_plain_nodes_wait_for_no_replicas(
    location: Any, options: dict[str, Any], waiting: list[str]
) -> None:
    """No plain node of the other ring, or of the gutter, could confirm a delete."""
    client = client_of(location, wait_replicas=1, **options)
    names = ["cluster" if node.endpoint == "cluster" else node.name for node in client.nodes]
    waits = [name for name, node in zip(names, client.nodes, strict=True) if node.promise_wait is not None]
    assert sorted(waits) == sorted(waiting)


def test_a_near_cache_knows_which_copies_it_has() -> None:
    """None would mean that there is no near cache."""
    client = client_of(near={"max_entries": 10})
    assert client.context.near is not None
    assert client.has_near_copy(b"k") is False


def test_a_value_from_a_server_that_owns_no_slot_yet_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracking connection to it is open, so nothing would invalidate the copy."""
    client = client_of(CLUSTER, near={"max_entries": 10})
    assert client.cluster is not None
    assert client._trackings is not None
    client.cluster._apply(topology((A, [], [LOW, HIGH])))
    client._trackings._opened(0)
    asked: list[Command] = []
    replies = {b"GET": client.context.codec.encode("value", b"k"), b"PTTL": 60_000, b"ASKING": b"OK"}
    is_moving = True

    def send(node: Node, commands: Sequence[Command]) -> Received:
        if is_moving and node.name == A.name:
            return Received([RedirectedError.read("ASK 7629 e.test:7000") for _ in commands])
        asked.extend(commands)
        return Received([replies[bytes(command[0])] for command in commands])  # type: ignore[arg-type]

    monkeypatch.setattr(Node, "send", send)
    for _ in range(2):
        client._trackings._is_started = True  # by no thread; the connections to all owners of slots are open
        assert (client.get(b"k"), client.has_near_copy(b"k")) == ("value", False)
    assert asked == [(b"ASKING",), (b"GET", b"k"), (b"ASKING",), (b"PTTL", b"k")] * 2
    is_moving = False
    client._trackings._is_started = True
    assert (client.get(b"k"), client.has_near_copy(b"k")) == ("value", True)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "operation",
    [
        lambda context: clear(context, b"*"),
        flush,
        lambda context: KeyScan(context, b"*", 10).page(),
    ],
    ids=["clear", "flush", "scan"],
)
def test_what_concerns_all_nodes_reaches_a_server_that_has_just_got_slots(
    monkeypatch: pytest.MonkeyPatch, operation: Any, is_async: bool
) -> None:
    """No server redirects a command that names no key, so the topology is read again.

    The new server is asked when it has got the deletes that others missed.
    """
    client = client_of(CLUSTER)
    assert client.cluster is not None
    asked: list[str] = []

    def answer(node: Node, command: Command) -> Reply:
        if command[0] == b"CLUSTER":  # it names servers without slots, and is not sent to one that is ejected
            return []
        asked.append(node.name)
        assert node.breaker is not None
        assert not node.breaker.is_open
        return b"OK" if command[0] == b"FLUSHDB" else [b"0", []]

    def send(node: Node, commands: Sequence[Command]) -> Received:
        return Received([answer(node, command) for command in commands])

    async def submit(node: Node, commands: Sequence[Command]) -> list[Reply]:
        return [answer(node, command) for command in commands]

    monkeypatch.setattr(ShardNode, "call", answer)
    monkeypatch.setattr(ShardNode, "send", send)
    monkeypatch.setattr(ShardNode, "submit", submit)
    monkeypatch.setattr(ShardNode, "_start_probe", lambda node: Timer(0.05, node.breaker.close).start())
    client.cluster._apply(topology((A, [], [LOW, HIGH])))
    grown = topology((A, [], [LOW]), (E, [], [HIGH]))
    monkeypatch.setattr(client.cluster._reader, "_ask", lambda *_: grown)
    if is_async:
        asyncio.run(client.arun(operation(client.context)))
    else:
        client.run(operation(client.context))
    assert set(asked) == {A.name, E.name}


@pytest.mark.parametrize(("missing", "key"), [(0, b"bar"), (1, b"foo")])
def test_a_delete_that_was_sent_to_a_former_primary_is_replayed_before_its_shard_is_read(
    monkeypatch: pytest.MonkeyPatch, missing: int, key: bytes
) -> None:
    """Or the shard that redirects the key there; as long as the delete may have been under way."""
    clock, replays = HeldClock(), list[str]()
    monkeypatch.setattr(ShardNode, "_start_probe", lambda _: None)
    monkeypatch.setattr(ShardNode, "request_replay", lambda node: replays.append(node.name))
    given: dict[str, Any] = {"socket_timeout": 0.1}
    options = RingOptions.read(["redis+cluster://seed.test:7000"], given, "CACHES['default']")
    client = RingClient(options, clock)
    assert client.cluster is not None
    client.cluster._apply(topology((A, [C], [LOW]), (B, [], [HIGH])))
    client.cluster._apply(topology((C, [], [LOW]), (B, [], [HIGH])))
    breaker = client.nodes[missing].breaker
    assert breaker is not None
    for passed, is_ejected in ((0.0, True), (0.15, True), (0.1, False)):
        breaker.close()
        clock.seconds += passed
        client.context.record_missed(missing, [key])
        assert breaker.is_open == is_ejected
    assert replays == [client.nodes[missing].name]


def test_it_is_logged_once_that_missed_deletes_are_kept_in_memory_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the app is not installed: a crash would lose them."""
    client = client_of()
    monkeypatch.setattr(type(client.nodes[0]), "request_replay", lambda _: None)  # no probe
    caplog.set_level(logging.WARNING)
    for key in (b"k", b"l"):
        client.context.record_missed(0, [key])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "INSTALLED_APPS" in caplog.text
    assert client.context.missed.count(0) == 2


def test_a_missed_delete_that_the_outbox_has_is_not_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a short time; a later missed delete of the key is stored."""
    kept: list[tuple[str, MissedKeys]] = []

    class Outbox:
        def keep(self, node: str, missed: MissedKeys) -> bool:
            kept.append((node, missed))
            return True

        def missed_by(self, node: str, limit: float) -> MissedKeys:
            return MissedKeys()

    client = client_of()
    monkeypatch.setattr(type(client.nodes[0]), "request_replay", lambda _: None)
    client.outbox = Outbox()
    for _ in range(2):
        client.context.record_missed(0, [b"k"])
    assert kept == [("h:1/0", MissedKeys((b"k",)))]
