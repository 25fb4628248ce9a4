"""A cache alias on a real cluster: redirections, slots that move, failovers, and replicas that confirm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings
from redis.exceptions import ResponseError

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.cluster import ShardNode
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation import clears, deletes
from cachebackend.invalidation.query_changes import unknown_change
from cachebackend.monitoring.observer import node_states
from cachebackend.monitoring.setup import Difference, configure, differences, ring_faults
from cachebackend.node import Node
from cachebackend.options import RingOptions
from cachebackend.protocol import FillOptions
from cachebackend.protocol.missed_deletes import MissedKeys
from cacheproject.cluster import Cluster
from cacheproject.services import Services
from tests.node_settings import cluster_settings
from tests.waits import wait_until

MINUTE_MS = 60_000
KEYS = [b"key:%d" % number for number in range(30)]


def client_of(services: Services, **options: Any) -> RingClient:
    return RingClient(RingOptions.read(services.ring_urls, options, "CACHES['default']"))


@pytest.fixture
def client(cluster_services: Services, cluster: Cluster) -> Iterator[RingClient]:
    del cluster
    client = client_of(cluster_services)
    yield client
    client.close()


def is_up(client: RingClient) -> bool:
    return not any(node.is_ejected for node in client.nodes)


def get_many(client: RingClient) -> dict[Any, Any]:
    return client.run(protocol.get_many(client.context, {key: key for key in KEYS}))


def test_the_first_commands_find_their_servers(client: RingClient) -> None:
    """The table is read with the first connection; it has each primary."""
    for key in KEYS:
        assert client.set(key, key, MINUTE_MS)
    assert [client.get(key) for key in KEYS] == KEYS
    assert (len(client.ring.nodes), sum(client.ring.shares())) == (3, 16_384)


def test_many_keys_are_read_and_deleted_in_one_round_trip(client: RingClient) -> None:
    """Although MGET and a script of several keys are refused there."""
    for key in KEYS[:20]:
        client.set(key, key, MINUTE_MS)
    assert get_many(client) == {key: key for key in KEYS[:20]}
    assert client.run(protocol.delete_many(client.context, KEYS)) == []
    assert get_many(client) == {}


def test_asyncio_follows_redirections_too(client: RingClient, cluster: Cluster) -> None:
    """With the first command of a client, and when a slot has moved."""

    async def use() -> None:
        for key in KEYS:
            await client.aset(key, key, MINUTE_MS)
        slot = client.ring.slot_of(KEYS[0])
        move_to_another(cluster, slot)
        assert [await client.aget(key) for key in KEYS] == KEYS
        assert await client.arun(protocol.get_many(client.context, {key: key for key in KEYS})) == {
            key: key for key in KEYS
        }

    asyncio.run(use())


def move_to_another(cluster: Cluster, slot: int) -> None:
    cluster.move_slot(slot, another_primary(cluster, slot)).run()


def another_primary(cluster: Cluster, slot: int) -> str:
    return next(name for name in cluster.primaries if name != cluster.primary_of(slot))


def test_a_key_is_read_and_written_at_each_step_of_a_move(client: RingClient, cluster: Cluster) -> None:
    """A value, its delete, and a fill under a lease."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    slot = client.ring.slot_of(key)
    move = cluster.move_slot(slot, another_primary(cluster, slot))
    move.begin()
    assert client.get(key) == "old"
    assert client.delete(key)
    assert client.get(key) is None
    assert client.get_or_load(key, lambda: "loaded", FillOptions(ttl_ms=MINUTE_MS)) == "loaded"
    for each in move.keys:
        move.move_key(each)
    assert client.get(key) == "loaded"
    assert client.delete(key)
    assert client.get_or_load(key, lambda: "again", FillOptions(ttl_ms=MINUTE_MS)) == "again"
    assert client.get(key) == "again"
    move.end()
    assert client.get(key) == "again"
    assert client.ring.names[client.ring.owner(key)].endswith(
        f":{cluster.server(cluster.primary_of(slot)).port}"
    )


def test_a_lease_moves_with_its_key(client: RingClient, cluster: Cluster) -> None:
    """A delete at the new owner revokes the lease that the old owner granted, so the fill is refused."""
    key = KEYS[0]
    client.get(key)
    slot = client.ring.slot_of(key)
    move = cluster.move_slot(slot, another_primary(cluster, slot))

    def load() -> str:
        move.begin()
        for each in move.keys:
            move.move_key(each)
        client.delete(key)
        move.end()
        return "stale"

    assert client.get_or_load(key, load, FillOptions(ttl_ms=MINUTE_MS)) == "stale"
    assert client.get(key) is None


def test_a_slot_may_move_as_a_whole(client: RingClient, cluster: Cluster) -> None:
    """Valkey 9 moves it with all of its keys, and never answers ASK."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    slot = client.ring.slot_of(key)
    source, target = cluster.primary_of(slot), another_primary(cluster, slot)
    command = "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.identity(target)
    try:
        cluster.ask(source, *command)
    except ResponseError:
        pytest.skip("the server moves slots key by key only")
    wait_until(lambda: cluster.primary_of(slot) == target)
    assert client.get(key) == "old"
    assert client.delete(key)
    assert client.get(key) is None


def test_deletes_reach_the_promoted_replica_before_it_is_read(
    client: RingClient, cluster_services: Services, cluster: Cluster
) -> None:
    """The old primary is dead when a key is deleted; the replica has the old value when it is promoted."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    primary = cluster.primary_of(client.ring.slot_of(key))
    [replica] = cluster.replicas_of(primary)
    wait_until(lambda: has_key(cluster, replica))
    cluster_services.kill(primary)
    try:
        assert not client.delete(key)
        assert client.get(key) is None
        cluster.wait_until_replaced(primary)
        seen = set()
        wait_until(lambda: seen.add(client.get(key)) or is_up(client))
        assert seen | {client.get(key)} == {None}
        assert client.set(key, "new", MINUTE_MS)
        assert client.get(key) == "new"
    finally:
        cluster_services.restart(primary)
        cluster.wait_until_ok()


def test_a_delete_reaches_the_promoted_replica_of_a_shard_that_its_slot_moves_to(
    client: RingClient, cluster_services: Services, cluster: Cluster
) -> None:
    """The key has moved there, its slot has not; so readers are redirected to the promoted replica."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    slot = client.ring.slot_of(key)
    source, target = cluster.primary_of(slot), another_primary(cluster, slot)
    move = cluster.move_slot(slot, target)
    move.begin()
    move.move_key(key)
    [replica] = cluster.replicas_of(target)
    wait_until(lambda: has_key(cluster, replica))
    cluster_services.kill(target)
    try:
        assert not client.delete(key)
        cluster.wait_until_replaced(target)
        seen = {client.get(key)}
        if f"[{slot}-<-" not in str(cluster.ask(replica, "CLUSTER", "NODES")):
            # A replica of Redis does not know which slots move: nobody serves the key until the move is ended
            cluster.ask(source, "CLUSTER", "SETSLOT", slot, "STABLE")
        wait_until(lambda: seen.add(client.get(key)) or client.set(key, "new", MINUTE_MS))
        assert (seen, client.get(key)) == ({None}, "new")
    finally:
        cluster_services.restart(target)
        cluster.wait_until_ok()


def test_a_server_that_refuses_the_delete_of_a_key_that_was_moved_to_it_is_not_read(
    client: RingClient, cluster: Cluster
) -> None:
    """Until it accepts writes again; the slot still moves, so the old server has redirected the delete."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    slot = client.ring.slot_of(key)
    target = another_primary(cluster, slot)
    move = cluster.move_slot(slot, target)
    move.begin()
    move.move_key(key)
    assert client.get(key) == "old"
    cluster.ask(target, "CONFIG", "SET", "min-replicas-to-write", 2)
    try:
        assert not client.delete(key)
        wait_until(lambda: client.get(key) is None)
        wait_until(client.nodes[client.ring.owner(key)].probe_now)
        assert {client.get(key) for _ in range(100)} == {None}
    finally:
        cluster.ask(target, "CONFIG", "SET", "min-replicas-to-write", 0)
    seen = set()
    wait_until(lambda: seen.add(client.get(key)) or is_up(client))
    assert seen | {client.get(key)} == {None}


def test_a_delete_that_is_postponed_after_its_slot_has_moved_reaches_the_new_owner(
    client: RingClient, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new owner is up, and was given nothing with the table: the delete was under way in a probe then."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    slot = client.ring.slot_of(key)
    source = cluster.primary_of(slot)
    second, third = (name for name in cluster.primaries if name != source)
    move = cluster.move_slot(slot, second)
    move.begin()
    move.move_key(key)
    assert client.get(key) == "old"
    cluster.ask(second, "CONFIG", "SET", "min-replicas-to-write", 2)
    owner, real = client.nodes[client.ring.owner(key)], ShardNode._postpone
    moved: list[str] = []

    def postpone(self: ShardNode, *given: Any) -> None:
        """Let the slot end at the third server first, and the process know that."""
        if self is owner and not moved:
            cluster.ask(second, "CONFIG", "SET", "min-replicas-to-write", 0)
            cluster.ask(third, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identity(source))
            replace(move, source=second, target=third).move_key(key)
            replace(move, target=third).end()
            assert client.cluster is not None
            client.cluster.reload()
            moved.append(third)
        real(self, *given)

    monkeypatch.setattr(ShardNode, "_postpone", postpone)
    try:
        client.delete(key)
        wait_until(lambda: moved)
        owner.probe_now()
    finally:
        cluster.ask(second, "CONFIG", "SET", "min-replicas-to-write", 0)
    wait_until(lambda: client.get(key) is None and is_up(client))
    assert {client.get(key) for _ in range(50)} == {None}


def test_deletes_that_others_missed_go_with_the_slots_of_an_ejected_server(
    client: RingClient, cluster: Cluster
) -> None:
    """This process is cut off from the old owner, so it has not got the deletes of the outbox there."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    owner = client.nodes[client.ring.owner(key)]
    assert owner.breaker is not None
    owner._prepare_probe = refuse  # type: ignore[method-assign]
    owner.breaker.failed(NodeUnavailableError("cut off"), at_once=True)
    client.outbox = SimpleNamespace(keep=lambda *_: True, missed_by=lambda *_: MissedKeys((key,)))  # type: ignore[assignment]
    assert client.get(key) is None
    move_to_another(cluster, client.ring.slot_of(key))
    assert client.cluster is not None
    client.cluster.reload()
    seen = {client.get(key)}
    wait_until(lambda: seen.add(client.get(key)) or not client.nodes[client.ring.owner(key)].is_ejected)
    assert seen | {client.get(key)} == {None}


def test_slots_that_arrive_during_a_probe_are_served_after_another_one(
    client: RingClient, cluster: Cluster
) -> None:
    """The probe has read the outbox already: a delete that another process has missed came after that."""
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    slot = client.ring.slot_of(key)
    old, target = client.nodes[client.ring.owner(key)], another_primary(cluster, slot)
    [new] = [node for node in client.nodes if node.name.endswith(f":{cluster.server(target).port}")]
    old._prepare_probe = refuse  # type: ignore[method-assign]
    read: list[str] = []

    def missed_by(node: str, _: float) -> MissedKeys:
        read.append(node)
        if len(read) > 1:
            return MissedKeys((key,))
        assert old.breaker is not None
        old.breaker.failed(NodeUnavailableError("cut off"), at_once=True)
        cluster.move_slot(slot, target).run()
        assert client.cluster is not None
        client.cluster.reload()
        return MissedKeys()

    client.outbox = SimpleNamespace(keep=lambda *_: True, missed_by=missed_by)  # type: ignore[assignment]
    assert isinstance(new, ShardNode)
    new.hold("ejected by a test")
    wait_until(lambda: client.nodes[client.ring.owner(key)] is new and not new.is_ejected)
    assert {client.get(key) for _ in range(50)} == {None}


def refuse() -> None:
    raise ConnectionRefusedError


def has_key(cluster: Cluster, replica: str) -> bool:
    return bool(cluster.ask(replica, "DBSIZE"))


def test_a_planned_failover_loses_nothing(client: RingClient, cluster: Cluster) -> None:
    """The promoted node is asked after it has got what it may have missed; values stay."""
    key = KEYS[0]
    client.set(key, "kept", MINUTE_MS)
    [replica] = cluster.replicas_of(cluster.primary_of(client.ring.slot_of(key)))
    wait_until(lambda: has_key(cluster, replica))
    cluster.failover(replica)
    wait_until(lambda: client.get(key) == "kept")
    assert client.ring.names[client.ring.owner(key)].endswith(f":{cluster.server(replica).port}")
    cluster.wait_until_ok()


def test_a_delete_waits_for_a_replica_if_the_settings_ask_for_it(
    cluster_services: Services, cluster: Cluster
) -> None:
    """Without a replica that confirms, it counts as missed; the node still serves."""
    client = client_of(cluster_services, wait_replicas=1)
    try:
        key = KEYS[0]
        client.set(key, "old", MINUTE_MS)
        assert client.delete(key)
        primary = cluster.primary_of(client.ring.slot_of(key))
        [replica] = cluster.replicas_of(primary)
        cluster_services.stop(replica)
        try:
            client.set(key, "old", MINUTE_MS)
            [reply] = client.run(protocol.delete_many(client.context, [key]))
            assert reply == key
            assert client.get(key) is None
        finally:
            cluster_services.resume(replica)
        cluster.wait_until_ok()
        wait_until(lambda: is_up(client) and client.run(protocol.delete_many(client.context, [key])) == [])
    finally:
        client.close()


@pytest.mark.parametrize("record", [b"", b"Q" + bytes(16)])
def test_a_delete_of_a_key_that_is_gone_or_in_quarantine_waits_for_a_replica_too(
    cluster_services: Services, cluster: Cluster, record: bytes
) -> None:
    """The replica may still have the value: the primary has evicted it, or another writer was faster."""
    client = client_of(cluster_services, wait_replicas=1)
    key = KEYS[0]
    client.set(key, "old", MINUTE_MS)
    primary = cluster.primary_of(client.ring.slot_of(key))
    [replica] = cluster.replicas_of(primary)
    wait_until(lambda: has_key(cluster, replica))
    cluster_services.stop(replica)
    try:
        cluster.ask(primary, *(("SET", key, record, "PX", MINUTE_MS) if record else ("UNLINK", key)))
        assert client.run(protocol.delete_many(client.context, [key])) == [key]
    finally:
        cluster_services.resume(replica)
    cluster.wait_until_ok()
    wait_until(lambda: client.run(protocol.delete_many(client.context, [key])) == [])
    assert cluster.ask(primary, "GET", key) == (record or None)
    if record:
        assert 0 < cluster.ask(primary, "PTTL", key) <= MINUTE_MS
    client.close()


@pytest.mark.parametrize("is_absent", [False, True])
@pytest.mark.parametrize(
    "removed",
    [
        lambda context, key: protocol.make_stale(context, key, MINUTE_MS),
        lambda context, key: protocol.touch(context, key, 0),
        lambda context, _: protocol.clear(context, b"*"),
        lambda context, _: protocol.flush(context),
    ],
    ids=["make_stale", "touch", "clear", "flush"],
)
def test_other_ways_to_remove_a_value_wait_for_a_replica_too(
    cluster_services: Services, cluster: Cluster, removed: Any, *, is_absent: bool
) -> None:
    """Its primary may die before the replica knows; so what was not confirmed is recorded."""
    client = client_of(cluster_services, wait_replicas=1)
    key = KEYS[0]
    assert client.get_or_load(key, lambda: "old", FillOptions(ttl_ms=MINUTE_MS)) == "old"
    primary = cluster.primary_of(client.ring.slot_of(key))
    [replica] = cluster.replicas_of(primary)
    wait_until(lambda: has_key(cluster, replica))
    missed: list[int] = []
    client.context.on_missed = lambda node, _: missed.append(node)
    cluster_services.stop(replica)
    try:
        if is_absent:
            cluster.ask(primary, "UNLINK", key)
        client.run(removed(client.context, key))
    finally:
        cluster_services.resume(replica)
    cluster.wait_until_ok()
    assert client.ring.owner(key) in missed
    client.close()


def test_a_registry_that_a_replaced_primary_has_is_not_believed(
    cluster_services: Services, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended, and answers before it hears from the others: it lacks the shapes of other readers."""
    client = client_of(cluster_services, wait_replicas=1, socket_timeout=4.0)
    shards = [b"{registry}:%d\xff" % number for number in range(2)]
    assert client.run(protocol.read_shards(client.context, shards)) == ({}, [], True)
    primary = cluster.primary_of(client.ring.slot_of(shards[0]))
    [replica] = cluster.replicas_of(primary)
    cluster_services.stop(primary)
    try:
        cluster.wait_until_replaced(primary)
        cluster.ask(replica, "HSET", shards[0], "shape", "entry")
        real = Node.send

        def send(self: Node, commands: Any) -> Any:
            pending = real(self, commands)
            cluster_services.resume(primary)
            return pending

        monkeypatch.setattr(Node, "send", send)
        found = client.run(protocol.read_shards(client.context, shards))
    finally:
        cluster_services.resume(primary)
    assert not found.is_confirmed or found.shapes == {shards[0]: {b"shape"}}
    cluster.wait_until_ok()
    client.close()


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_registry_whose_slot_moves_is_confirmed_by_both_servers(
    cluster_services: Services, cluster: Cluster, is_moved: bool
) -> None:
    """The first one has the shard still, or redirects the question; neither confirms for the other."""
    client = client_of(cluster_services, wait_replicas=1)
    shard = b"{registry}:0\xff"
    slot = client.ring.slot_of(shard)
    cluster.ask(cluster.primary_of(slot), "HSET", shard, "shape", "entry")
    move = cluster.move_slot(slot, another_primary(cluster, slot))
    move.begin()
    if is_moved:
        move.move_key(shard)
    read = protocol.read_shards
    wait_until(lambda: client.run(read(client.context, [shard])) == ({shard: {b"shape"}}, [], True))
    for name in (move.source, move.target):
        [replica] = cluster.replicas_of(name)
        cluster_services.stop(replica)
        try:
            assert client.run(read(client.context, [shard])) == ({shard: {b"shape"}}, [], False)
        finally:
            cluster_services.resume(replica)
        wait_until(lambda: client.run(read(client.context, [shard])).is_confirmed)
    client.close()


def test_a_change_of_rows_stays_pending_until_replicas_confirm_the_registry(
    cluster_services: Services, cluster: Cluster
) -> None:
    """Although nothing was registered, so that there was nothing to delete."""
    block = {"LOCATION": cluster_services.ring_urls, "OPTIONS": {"wait_replicas": 1}}
    change = unknown_change("zoo_poem", "default").key
    replicas = [name for name in cluster.names if name not in cluster.primaries]
    with override_settings(CACHES=settings.CACHES | {"default": settings.CACHES["default"] | block}):
        assert not any(deletes.delete_together({"default": {change}}).values())
        for name in replicas:
            cluster_services.stop(name)
        try:
            assert deletes.delete_together({"default": {change}}) == {"default": {change}}
        finally:
            for name in replicas:
                cluster_services.resume(name)
        cluster.wait_until_ok()
        wait_until(lambda: not any(deletes.delete_together({"default": {change}}).values()))


@pytest.mark.parametrize("wait_replicas", [0, 1])
def test_a_delete_probes_an_ejected_shard_if_it_waits_for_replicas(
    client: RingClient,
    cluster_services: Services,
    monkeypatch: pytest.MonkeyPatch,
    wait_replicas: int,
) -> None:
    """Other processes may read the promoted replica already; without the option the relay deletes the key."""
    key = KEYS[0]
    assert client.set(key, "old", MINUTE_MS)
    writer = client_of(cluster_services, wait_replicas=wait_replicas)
    try:
        monkeypatch.setattr(deletes, "ring_cache_of", lambda _: SimpleNamespace(client=writer))
        assert writer.get(key) == "old"
        breaker = writer.nodes[writer.ring.owner(key)].breaker
        assert breaker is not None
        breaker.failed(NodeUnavailableError("its primary has died"), at_once=True)
        monkeypatch.setattr(breaker, "_probe_at", float("inf"))
        unconfirmed = deletes.delete_together({"default": {key}})
        assert (unconfirmed, client.get(key)) == (
            ({}, None) if wait_replicas else ({"default": {key}}, "old")
        )
    finally:
        writer.close()


def test_a_plain_url_of_a_cluster_says_what_to_write(cluster_services: Services, cluster: Cluster) -> None:
    """Every other key would fail; the message names the form of the URL."""
    server = cluster.server("ring-a")
    options = RingOptions.read(f"redis://:{server.password}@127.0.0.1:{server.port}", {}, "CACHES")
    client = RingClient(options)
    with pytest.raises(Exception, match=r"redis\+cluster://"):
        for key in KEYS:
            client.get(key)
    client.close()


@pytest.mark.ring_of_nodes
def test_a_plain_server_is_no_cluster(services: Services) -> None:
    """The error says what to write instead."""
    url = services.ring_urls[0].replace("redis://", "redis+cluster://").partition("/0")[0].partition("?")[0]
    client = RingClient(RingOptions.read(url, {"on_node_failure": "raise"}, "CACHES"))
    with pytest.raises(NodeUnavailableError, match="not in cluster mode; write redis://"):
        client.get(b"a")
    client.close()


def test_clear_reaches_every_primary(cluster_services: Services, cluster: Cluster) -> None:
    """Also as the first operation of a client, which does not know the table yet."""
    writer, clearer = client_of(cluster_services), client_of(cluster_services)
    for key in KEYS:
        writer.set(key, key, MINUTE_MS)
    assert clearer.run(protocol.clear(clearer.context, b"*")) == len(KEYS)
    assert get_many(writer) == {}
    assert sum(cluster.ask(name, "DBSIZE") for name in cluster.primaries) == 0
    writer.close()
    clearer.close()


@pytest.mark.parametrize(
    "clear",
    [
        lambda client: clears.clear_node("default", client.nodes[0].endpoint),
        lambda _: not clears.clear_tags(),
    ],
    ids=["node", "tags"],
)
def test_a_clear_of_the_relay_finds_a_key_that_moves_meanwhile(
    client: RingClient, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, clear: Any
) -> None:
    """From a server that was not asked yet to one that was."""
    cache = SimpleNamespace(client=client, pattern=b"*", tag_pattern=b"*", can_clear=True)
    monkeypatch.setattr(deletes, "ring_cache_of", lambda _: cache)
    monkeypatch.setattr(clears, "ring_aliases", lambda: ["default"])
    for each in KEYS:
        client.set(each, "old", MINUTE_MS)
    first, *_, last = client.ring.nodes
    key = next(each for each in KEYS if client.ring.owner(each) == last)
    [target] = [
        name
        for name in cluster.primaries
        if client.nodes[first].name.endswith(f":{cluster.server(name).port}")
    ]
    move, real, moved = cluster.move_slot(client.ring.slot_of(key), target), ShardNode.send, []

    def send(self: ShardNode, commands: Any) -> Any:
        if self is client.nodes[last] and commands[0][0] == b"SCAN" and not moved:
            moved.append(target)
            move.run()
        return real(self, commands)

    monkeypatch.setattr(ShardNode, "send", send)
    assert clear(client)
    assert moved
    assert get_many(client) == {}


def test_a_scan_finds_the_keys_of_all_servers(client: RingClient, cluster_services: Services) -> None:
    """Each once; also as the first operation of a client, which does not know the table yet."""
    for key in KEYS:
        client.set(key, key, MINUTE_MS)
    other = client_of(cluster_services)
    scan, found = protocol.KeyScan(other.context, b"*", 10), []
    while not scan.is_over:
        found += other.run(scan.page())
    assert sorted(found) == sorted(KEYS)
    other.close()


def test_a_lock_is_found_after_its_slot_has_moved(client: RingClient, cluster: Cluster) -> None:
    """redis-py's client of the cluster follows the redirection."""
    name = KEYS[0]
    lock = client.redis(name).lock(name.decode(), timeout=60)
    assert lock.acquire(blocking=False)
    move_to_another(cluster, client.ring.slot_of(name))
    assert not client.redis(name).lock(name.decode()).acquire(blocking=False)
    lock.release()


def test_near_copies_are_invalidated_wherever_the_key_is(
    cluster_services: Services, cluster: Cluster
) -> None:
    """Another process writes the key, also after its slot has moved and after a failover."""
    client = client_of(cluster_services, near={"max_age": 3600.0})
    writer = client_of(cluster_services)
    key = KEYS[0]

    def is_copied() -> bool:
        client.get(key)
        return bool(client.has_near_copy(key))

    def check(value: str) -> None:
        assert writer.set(key, value, MINUTE_MS)
        wait_until(lambda: client.get(key) == value)
        wait_until(is_copied)

    try:
        check("first")
        check("second")
        move_to_another(cluster, client.ring.slot_of(key))
        check("third")
        [replica] = cluster.replicas_of(cluster.primary_of(client.ring.slot_of(key)))
        cluster.failover(replica)
        cluster.wait_until_ok()
        wait_until(lambda: writer.set(key, "probe", MINUTE_MS))
        check("fourth")
        check("fifth")
    finally:
        client.close()
        writer.close()


def test_a_ring_of_nodes_changes_to_a_cluster_under_traffic(
    services: Services, empty_nodes: None, cluster_services: Services, cluster: Cluster
) -> None:
    """Processes of two adjacent deploys write and read the same keys, and none sees an old value."""
    del empty_nodes, cluster
    ring, to = services.ring_urls, cluster_services.ring_urls
    deploys = [
        RingClient(RingOptions.read(location, options, "CACHES"))
        for location, options in (
            (ring, {"joining": to}),
            (to, {"leaving": ring}),
            (to, {"leaving": ring, "warm": False}),
            (to, {}),
        )
    ]
    for old, new in pairwise(deploys):
        for key in KEYS:
            assert old.set(key, "first", MINUTE_MS)
        assert {new.get(key) for key in KEYS} <= {"first", None}
        for key in KEYS:
            assert old.set(key, "second", MINUTE_MS)
        assert {new.get(key) for key in KEYS} <= {"second", None}
        for key in KEYS:
            assert new.set(key, "third", MINUTE_MS)
        assert {old.get(key) for key in KEYS} <= {"third", None}
        assert new.run(protocol.delete_many(new.context, KEYS)) == []
        assert {old.get(key) for key in KEYS} | {new.get(key) for key in KEYS} == {None}
    for client in deploys:
        client.close()


def test_a_value_is_warmed_from_the_old_ring(
    services: Services, empty_nodes: None, cluster_services: Services, cluster: Cluster
) -> None:
    """So the hit ratio stays while a ring changes to a cluster."""
    del empty_nodes, cluster
    old = RingClient(RingOptions.read(services.ring_urls, {}, "CACHES"))
    new = client_of(cluster_services, leaving=services.ring_urls)
    assert old.set(KEYS[0], "old", MINUTE_MS)
    assert new.get(KEYS[0]) == "old"
    moved = client_of(cluster_services)
    assert moved.get_or_load(KEYS[1], lambda: "loaded", FillOptions(ttl_ms=MINUTE_MS)) == "loaded"
    assert new.get_or_load(KEYS[0], lambda: "loaded", FillOptions(ttl_ms=MINUTE_MS)) == "old"
    assert moved.get(KEYS[0]) == "old"
    for client in (old, new, moved):
        client.close()


def test_replicas_get_the_settings_of_the_primaries(cluster_services: Services, cluster: Cluster) -> None:
    """Each may be promoted at any time."""
    client = client_of(cluster_services, eviction={"policy": "allkeys-lru"})

    def differing() -> list[Difference]:
        return differences(client, client.run(protocol.telemetry.node_infos(client.context, client.indexes)))

    with cluster_settings(cluster, maxmemory_policy="allkeys-lfu"):
        found = differing()
        ports = {cluster.server(name).port for name in cluster.names}
        assert {int(each.node.rpartition(":")[2]) for each in found} == ports
        configure(client, found)
        assert differing() == []
        policies = [cluster.ask(name, "CONFIG", "GET", "maxmemory-policy") for name in cluster.names]
        assert policies == [{b"maxmemory-policy": b"allkeys-lru"}] * len(ports)
    client.close()


def test_a_server_that_serves_reads_although_it_is_cut_off_is_a_fault(
    client: RingClient, cluster: Cluster
) -> None:
    """Also a replica, which may be promoted."""
    replica = next(name for name in cluster.names if name not in cluster.primaries)
    for name in (cluster.primaries[0], replica):
        cluster.ask(name, "CONFIG", "SET", "cluster-allow-reads-when-down", "yes")
    try:
        faults = [fault for fault in ring_faults("default", client) if "reads-when-down" in fault]
    finally:
        for name in cluster.names:
            cluster.ask(name, "CONFIG", "SET", "cluster-allow-reads-when-down", "no")
    assert len(faults) == 2
    assert str(cluster.server(replica).port) in faults[1]
    assert "serves old values while it is cut off" in faults[0]
    assert not any("reads-when-down" in fault for fault in ring_faults("default", client))


def test_a_right_that_a_cluster_needs_and_its_user_lacks_is_a_fault(
    cluster_services: Services, cluster: Cluster
) -> None:
    """Else nothing says why deletes stay pending, keys of moving slots miss, or no promotion is noticed."""
    words = ["on", ">password", "~*", "&*", "+@all", "-asking", "-wait", "-cluster|shards"]
    for name in cluster.names:
        cluster.ask(name, "ACL", "SETUSER", "few", *words)
    urls = [f"redis+cluster://few:password@{url.partition('@')[2]}" for url in cluster_services.ring_urls]
    client = RingClient(RingOptions.read(urls, {"wait_replicas": 1}, "CACHES['default']"))
    try:
        client.set(b"any", 1, MINUTE_MS)  # the table is read, and cannot be read again
        for name in cluster.names:
            cluster.ask(name, "ACL", "SETUSER", "few", "-cluster|info", "-cluster|slots")
        faults = [fault for fault in ring_faults("default", client) if "what a cluster needs" in fault]
    finally:
        client.close()
        for name in cluster.names:
            cluster.ask(name, "ACL", "DELUSER", "few")
            cluster.ask(name, "ACL", "LOG", "RESET")
    rights = {"+cluster|info", "+cluster|slots", "+cluster|shards", "+asking", "+wait"}
    assert len(faults) == len(rights) * len(cluster.names)
    assert {fault.partition("grant it ")[2] for fault in faults} == rights


def test_each_primary_reports_its_keys_and_its_commands(client: RingClient) -> None:
    """As the ring page and the timeline read them; each of them is one node to which keys belong."""
    for key in KEYS:
        client.set(key, key, MINUTE_MS)
    sizes = [
        size
        for index in client.indexes
        for size in client.run(protocol.telemetry.random_key_sizes(client.context, index, 50)).values()
    ]
    assert len(sizes) >= 3
    assert min(sizes) > 0
    infos = client.run(protocol.telemetry.command_infos(client.context, client.indexes))
    assert all("cmdstat_info" in info or "cmdstat_set" in info for info in infos if isinstance(info, dict))
    states = {state.subject: state.value for state in node_states("default", client, [])}
    assert list(states.values()).count("used") == 3
    assert len({run for subject, run in states.items() if subject.startswith("start of ")}) == 3
