"""A queue on a real cluster: its parts, slots that move, failovers, and what replicas have confirmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.management import call_command
from django.db.models import F
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.cluster import SlotNode, slot
from cachebackend.errors import (
    MovingSlotError,
    NodeUnavailableError,
    UnconfirmedError,
    WriteBehindStoppedError,
    WriteBehindUnknownError,
)
from cachebackend.monitoring import queue_figures
from cachebackend.options import CLUSTER_PARTS
from cachebackend.writebehind.erasure import delete_keys
from cachebackend.writebehind.queue import project_queue
from cacheproject.cluster import Cluster, SlotMove
from cacheproject.services import Services
from tests.integration.write_behind import command, drain_all
from tests.node_settings import cluster_settings
from tests.shop.models import Meter
from tests.waits import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes", "_waitaof")]
#: Those of a server that stores writes durably.
QUEUE_SETTINGS = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


@pytest.fixture(scope="session")
def _waitaof(cluster_services: Services) -> None:
    """Skip the tests on servers that cannot be queue nodes."""
    with redis.Redis.from_url(cluster_services.ring_servers[0].partition("?")[0]) as server:
        try:
            server.execute_command("WAITAOF", 0, 0, 0)
        except redis.ResponseError as error:  # or it is a replica, which refuses the command
            if "unknown command" in str(error):
                pytest.skip("these nodes have no WAITAOF")


@pytest.fixture
def queue(cluster: Cluster) -> Iterator[Callable[..., Any]]:
    """Returns settings of a queue on the cluster, whose servers write append-only files."""

    def on_cluster(**options: Any) -> Any:
        return override_settings(WRITE_BEHIND={"nodes": cluster.url, "partitions": 2} | options)

    with cluster_settings(cluster, **QUEUE_SETTINGS):
        yield on_cluster


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create()


def add_one(*meters: Meter) -> None:
    Meter.behind.update_many({meter.pk: {"count": F("count") + 1} for meter in meters})


def counts(*meters: Meter) -> list[int]:
    return [Meter.objects.get(pk=meter.pk).count for meter in meters]


def tick() -> None:
    for partition in writebehind.seal_dirty():
        writebehind.drain(partition)


def part_of(meter: Meter) -> SlotNode:
    """Return the part that has the partition of a row."""
    client = project_queue()
    partition = Meter.behind.rows.partition(Meter.behind.rows.row(meter.pk), client.context.partitions)
    node = client.nodes[client.ring.owner(partition.name)]
    assert isinstance(node, SlotNode)
    return node


def move_of(cluster: Cluster, part: SlotNode) -> SlotMove:
    source = cluster.primary_of(part._slot)
    return cluster.move_slot(part._slot, next(name for name in cluster.primaries if name != source))


def test_writes_are_queued_read_and_drained(queue: Callable[..., Any], cluster: Cluster) -> None:
    """Each key is in the slot of its part, so the scripts of several keys are not refused."""
    meters = Meter.objects.bulk_create([Meter() for _ in range(60)])
    with queue(partitions=8):
        add_one(*meters)
        add_one(meters[0])
        assert Meter.behind.get(meters[0].pk).count == 2
        keys = [key for name in cluster.primaries for key in cluster.ask(name, "KEYS", "wb:*")]
        assert {cluster.slot_of(key) for key in keys} <= {cluster.slot_of(part) for part in CLUSTER_PARTS}
        assert len({key.partition(b"}")[0] for key in keys}) > 3
        tick()
        drain_all()
        assert writebehind.dirty_partitions() == []
        keys = [key for name in cluster.primaries for key in cluster.ask(name, "KEYS", "wb:*")]
        assert {key.rpartition(b":")[2] for key in keys} == {b"meta", b"partitions"}
    assert counts(*meters) == [2] + [1] * 59


def test_the_state_names_parts_and_their_servers(queue: Callable[..., Any], meter: Meter) -> None:
    """The faults of a server are named once, not for each part on it."""
    with queue(), override_settings(RINGCACHE={}):
        add_one(meter)
        part = part_of(meter)
        report = command("status")
        [partition] = [each for each in report["partitions"] if each["fields"]]
        assert partition["node"] == part.name
        assert part.name.endswith(f" at {part.server}")
        assert part.server.startswith("127.0.0.1:")
        assert writebehind.node_faults() == []
        assert len(project_queue().servers()) == 3


class Steps:
    """Takes the next step of a slot's move whenever a command waits for it."""

    def __init__(self, move: SlotMove) -> None:
        self.left: list[Callable[[], None]] = [
            *(lambda key=key: move.move_key(key) for key in move.keys),
            move.end,
        ]

    def __call__(self, seconds: float) -> None:
        assert seconds > 0
        self.left.pop(0)()


def test_a_write_waits_until_its_slot_has_moved(
    queue: Callable[..., Any], meter: Meter, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lacks one of the keys executes nothing; then all of them are at the new one."""
    with queue():
        add_one(meter)
        part = part_of(meter)
        move = move_of(cluster, part)
        move.begin()
        steps = Steps(move)
        monkeypatch.setattr(slot.time, "sleep", steps)
        add_one(meter)
        assert steps.left == []
        assert part.server.endswith(f":{cluster.server(move.target).port}")
        assert Meter.behind.get(meter.pk).count == 2
        tick()
    assert counts(meter) == [2]


def test_a_drain_continues_while_its_slot_moves(
    queue: Callable[..., Any], meter: Meter, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is written once: its seal, its fields and its end are at one server or at the other."""
    with queue():
        add_one(meter)
        add_one(meter)
        move = move_of(cluster, part_of(meter))
        move.begin()
        steps = Steps(move)
        monkeypatch.setattr(slot.time, "sleep", steps)
        tick()
        while steps.left:
            steps(1)
        add_one(meter)
        tick()
    assert counts(meter) == [3]


def test_a_write_to_a_slot_that_does_not_arrive_is_refused(
    queue: Callable[..., Any], meter: Meter, cluster: Cluster
) -> None:
    """After the socket timeout; nothing was taken, so the caller may write it elsewhere."""
    with queue(socket_timeout=0.05):
        add_one(meter)
        move = move_of(cluster, part_of(meter))
        move.begin()
        move.move_key(move.keys[0])
        with pytest.raises(MovingSlotError):
            Meter.behind.update(meter.pk, count=F("count") + 1)
        assert not part_of(meter).is_ejected
        for key in move.keys:
            move.move_key(key)
        move.end()
        add_one(meter)
        tick()
    assert counts(meter) == [2]


def fail_over(services: Services, cluster: Cluster, primary: str) -> None:
    """Kill a primary, promote its replica, and let the clients of this process see it."""
    [replica] = cluster.replicas_of(primary)
    services.kill(primary)
    cluster.failover(replica)


def restart(services: Services, cluster: Cluster, name: str) -> None:
    services.restart(name)
    cluster.wait_until_ok()
    for setting, value in QUEUE_SETTINGS.items():
        cluster.ask(name, "CONFIG", "SET", setting, value)


def try_to_add(meter: Meter) -> bool:
    try:
        Meter.behind.update(meter.pk, count=F("count") + 1)
    except NodeUnavailableError:
        return False
    return True


@pytest.mark.parametrize("durability", ["memory", "fsync"])
def test_with_wait_replicas_a_failover_loses_and_doubles_nothing(
    queue: Callable[..., Any],
    meter: Meter,
    cluster_services: Services,
    cluster: Cluster,
    durability: str,
) -> None:
    """A batch that was drained before, one that is sealed, and one that is open: each write counts once."""
    with queue(durability=durability, wait_replicas=1):
        add_one(meter)
        tick()
        add_one(meter)
        writebehind.seal_dirty()
        add_one(meter)
        primary = cluster.primary_of(part_of(meter)._slot)
        fail_over(cluster_services, cluster, primary)
        try:
            wait_until(lambda: try_to_read(meter) == 3)
            restart(cluster_services, cluster, primary)
            wait_until(lambda: try_to_add(meter))
            drain_all()
        finally:
            if not cluster.server(primary).is_running:
                restart(cluster_services, cluster, primary)
    assert counts(meter) == [4]


def has_stopped() -> bool:
    try:
        drain_all()
    except NodeUnavailableError:
        return False
    except WriteBehindStoppedError:
        return True
    pytest.fail("the drain does not see that the queue is older")


def try_to_drain() -> bool:
    try:
        drain_all()
    except NodeUnavailableError:  # the client that waits for seals has its own connections
        return False
    return True


def try_to_read(meter: Meter) -> int | None:
    try:
        return int(Meter.behind.get(meter.pk).count)
    except NodeUnavailableError:
        return None


def test_a_write_that_no_replica_has_is_not_acknowledged(
    queue: Callable[..., Any], meter: Meter, cluster_services: Services, cluster: Cluster
) -> None:
    """With ``wait_replicas=1``: its outcome is unknown. A batch whose seal no replica has is not drained."""
    with queue(durability="memory", wait_replicas=1, socket_timeout=0.2):
        add_one(meter)
        [replica] = cluster.replicas_of(cluster.primary_of(part_of(meter)._slot))
        cluster_services.stop(replica)
        try:
            with pytest.raises(WriteBehindUnknownError, match="0 of 1 replicas"):
                Meter.behind.update(meter.pk, count=F("count") + 1)
            with pytest.raises(UnconfirmedError, match="did not confirm that batches are sealed"):
                drain_all()
            assert counts(meter) == [0]
        finally:
            cluster_services.resume(replica)
        cluster.wait_until_ok()
        wait_until(lambda: tick() or counts(meter) == [2])


def test_without_wait_replicas_a_failover_may_lose_writes_but_doubles_none(
    queue: Callable[..., Any], meter: Meter, cluster_services: Services, cluster: Cluster
) -> None:
    """The promoted replica lacks the last seal and the last write: the partition stops, and reads say so."""
    with queue():
        add_one(meter)
        primary = cluster.primary_of(part_of(meter)._slot)
        [replica] = cluster.replicas_of(primary)
        wait_until(lambda: cluster.ask(replica, "DBSIZE") == cluster.ask(primary, "DBSIZE"))
        cluster_services.stop(replica)
        # Else its socket keeps what it has not read, and it reads that when it continues
        cluster.ask(primary, "CLIENT", "KILL", "TYPE", "replica")
        try:
            tick()
            add_one(meter)  # acknowledged, and lost
            cluster_services.kill(primary)
        finally:
            cluster_services.resume(replica)
        cluster.failover(replica)
        try:
            wait_until(has_stopped)
            with pytest.raises(WriteBehindStoppedError, match="came back with an older file"):
                Meter.behind.get(meter.pk)
            assert counts(meter) == [1]
            command("repair", "--drop")
            add_one(meter)
            wait_until(lambda: try_to_drain() and counts(meter) == [2])
        finally:
            restart(cluster_services, cluster, primary)


@pytest.mark.parametrize("wait_replicas", [0, 1])
def test_a_queue_moves_from_plain_nodes_to_a_cluster(
    queue: Callable[..., Any], meter: Meter, wait_replicas: int
) -> None:
    """The batches of the retiring nodes are written first; then the queue is on the cluster alone.

    The retiring nodes have no replicas, and their batches wait for none.
    """
    old = settings.WRITE_BEHIND["nodes"]
    Meter.behind.update(meter.pk, count=1)
    with queue(retiring=old, wait_replicas=wait_replicas):
        assert Meter.behind.get(meter.pk).count == 1
        add_one(meter)
        assert Meter.behind.get(meter.pk).count == 2
        tick()
        drain_all()
        assert writebehind.dirty_partitions() == []
        nodes, _ = writebehind.node_moves()
        assert [(node.left, node.faults) for node in nodes if not node.is_done] == []
    with queue():
        add_one(meter)
        drain_all()
    assert counts(meter) == [3]


def test_a_fault_of_a_server_is_printed_once(queue: Callable[..., Any], cluster: Cluster) -> None:
    """``writebehind nodes`` has a row for each part, and several parts are on one server."""
    name = cluster.primaries[0]
    cluster.ask(name, "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    printed = StringIO()
    with queue(), pytest.raises(SystemExit):
        call_command("writebehind", "nodes", stdout=printed)
    lines = [line for line in printed.getvalue().splitlines() if "allkeys-lfu" in line]
    assert len(lines) == 1
    assert str(cluster.server(name).port) in lines[0]


def test_each_part_is_listed_with_its_server(queue: Callable[..., Any]) -> None:
    """Also the first one, in a process that has not asked the cluster yet."""
    with queue(connect_timeout=2.5):
        nodes, _ = writebehind.node_moves()
    assert [each.node for each in nodes if "cluster" in each.node] == []


def test_the_settings_of_replicas_are_checked(queue: Callable[..., Any], cluster: Cluster) -> None:
    """Each may be promoted at any time, and would evict batches then."""
    [replica] = cluster.replicas_of(cluster.primaries[0])
    with queue():
        cluster.ask(replica, "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        found = [writebehind.node_faults(), [fault.message for fault in queue_figures().faults]]
    for faults in found:
        [fault] = [each for each in faults if "allkeys-lfu" in each]
        assert f"{cluster.server(replica).port}', a replica, may evict queued writes" in fault


def test_the_keys_of_a_queue_are_deleted_on_all_servers(queue: Callable[..., Any], cluster: Cluster) -> None:
    """Those of several slots of one server, too."""
    with queue(partitions=8):
        add_one(*Meter.objects.bulk_create([Meter() for _ in range(60)]))
        assert len(delete_keys(project_queue())) > 3
        assert [key for name in cluster.primaries for key in cluster.ask(name, "KEYS", "wb:*")] == []


def test_the_number_of_partitions_can_be_changed(queue: Callable[..., Any], meter: Meter) -> None:
    """On all parts; no write is lost."""
    with queue():
        add_one(meter)
        assert writebehind.change_partitions(5, drain_all) == 5
        add_one(meter)
        drain_all()
        assert writebehind.change_partitions(1, drain_all) == 1
    assert counts(meter) == [2]
