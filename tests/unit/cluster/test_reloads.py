"""When the topology of a cluster is read."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.cluster import Cluster
from cachebackend.cluster.reloads import PAUSE_SECONDS
from cachebackend.cluster.topology import Topology
from cachebackend.options import ClusterAddress
from tests.unit.cluster.shards import A, B, C, D
from tests.unit.test_clock import HeldClock


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads interrupt each other very often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("many_switches")
def test_threads_that_are_redirected_together_start_one_reader() -> None:
    """Or two, of which one waits; none of them raises an error."""
    cluster = Cluster(ClusterAddress((("seed.test", 7000),)), (0.1, 0.1), SYSTEM_CLOCK)
    cluster.try_reload = lambda: None  # type: ignore[method-assign]
    barrier, errors = threading.Barrier(8), list[Exception]()

    def redirect() -> None:
        for _ in range(100):
            barrier.wait()
            try:
                cluster.reload_soon()
            except Exception as error:  # noqa: BLE001  # the test shows it
                errors.append(error)

    threads = [threading.Thread(target=redirect) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_servers_that_disagree_do_not_let_the_topology_be_read_all_the_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of a slot is redirected then; between two reads in the background is a pause."""
    clock, waited = HeldClock(), list[float]()
    monkeypatch.setattr(cluster, "_clock", clock)
    monkeypatch.setattr(cluster, "_pause", waited.append)
    monkeypatch.setattr(cluster, "_reload", lambda: None)
    for passed in (0.0, PAUSE_SECONDS / 4, PAUSE_SECONDS, 5.0):
        cluster.reload()
        clock.seconds += passed
        cluster._reload_later()
    assert waited == pytest.approx([PAUSE_SECONDS, PAUSE_SECONDS * 3 / 4])


def test_a_cluster_without_a_server_that_answers_is_an_error(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the first server and why it did not answer."""

    def ask(host: str, port: int) -> Topology:
        raise ConnectionRefusedError(111, f"refused by {host}:{port}")

    monkeypatch.setattr(cluster._reader, "_ask", ask)
    with pytest.raises(ConnectionError, match=r"no server of the cluster answers: a\.test:7000"):
        cluster.reload()


def test_a_cluster_that_does_not_answer_is_asked_once_a_second(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call would wait for all servers otherwise; while one thread asks again, the others do not wait."""
    asked: list[int] = []

    def ask(host: str, port: int) -> Topology:
        asked.append(port)
        raise ConnectionRefusedError(111, f"refused by {host}")

    monkeypatch.setattr(cluster._reader, "_ask", ask)
    servers = len({A, B, C, D}) + 1
    cluster._epoch = None
    cluster.try_load()
    cluster.try_load()
    with pytest.raises(ConnectionError, match="no server of the cluster answers"):
        cluster.load()
    assert len(asked) == servers
    cluster._retry_at = 0.0
    assert cluster.is_due
    with cluster._lock:
        assert not cluster.is_due
    cluster.try_load()
    assert len(asked) == 2 * servers
