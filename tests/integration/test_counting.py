"""Counters of all processes: whole however a process ends, and whatever node is away."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.test import override_settings

from cachebackend import RingCache, invalidation
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.counters import Counters, Counts
from cachebackend.errors import NodeUnavailableError
from cachebackend.monitoring import alias_figures
from cachebackend.monitoring.window import MINUTES
from cachebackend.telemetry import publisher, shutdown
from cachebackend.telemetry.heartbeat import last_runs, record_run
from cachebackend.telemetry.publisher import (
    counts_by_minute,
    counts_in_all,
    drains_by_minute,
    drains_in_all,
    publish_all,
    publish_counts,
)
from cacheproject.processes import free_port
from cacheproject.services import Services
from tests.integration import process_exits

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
ROOT = Path(__file__).resolve().parents[2]
ENDINGS = [sys.executable, "-m", process_exits.__name__]


def start(*command: str, **named: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=ROOT, **named)


def shown() -> Counts:
    """What the page shows, but for what this process counted itself."""
    found = Counts()
    for counts in counts_by_minute("default", MINUTES).values():
        assert counts is not None
        found.add(counts)
    return found


@contextlib.contextmanager
def away(services: Services, cache: RingCache, *names: str) -> Iterator[None]:
    """Nodes are down for the length of a block, and let in again after."""
    for name in names:
        services.kill(name)
    try:
        yield
    finally:
        for name in names:
            services.restart(name)
        for node in cache.client.nodes:
            assert node.breaker is not None
            node.breaker.close()


# How processes end


def test_the_page_shows_what_all_processes_counted(ring_cache: RingCache) -> None:
    """Exactly, though they end right after: by themselves, by a signal, or as another's child."""
    ring_cache.set(process_exits.THERE, 1)
    ways = {"exit": 17, "sigterm": 40, "fork": 23, "spawn": 55}
    processes = {way: start(*ENDINGS, way, str(times), stdout=subprocess.PIPE) for way, times in ways.items()}
    by_signal = processes["sigterm"]
    assert by_signal.stdout is not None
    assert by_signal.stdout.readline() == b"counted\n"
    by_signal.terminate()
    codes = {}
    for way, process in processes.items():
        process.communicate(timeout=60)
        codes[way] = process.returncode
    assert codes == {"exit": 0, "sigterm": -signal.SIGTERM, "fork": 0, "spawn": 0}
    total = sum(ways.values())
    hour = alias_figures("default").hour
    assert (hour.hits, hour.misses) == (total, total)
    in_all = counts_in_all("default")
    assert (in_all.hits, in_all.misses) == (total, total)


def test_a_server_that_is_stopped_has_folded_all(ring_cache: RingCache) -> None:
    """Gunicorn, whose workers end in order."""
    ring_cache.set(process_exits.THERE, 1)
    port = free_port(0)
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "2", "--log-level", "critical"]
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # it is no path
        server = start(
            sys.executable,
            "-m",
            "gunicorn",
            f"{process_exits.__name__}:application",
            *options,
            stderr=nowhere,
        )
    try:
        for _ in range(20):
            ask_once_it_listens(f"http://127.0.0.1:{port}/", server)
    finally:
        server.terminate()
        assert server.wait(60) == 0
    assert (shown().hits, shown().misses) == (20, 20)


def ask_once_it_listens(url: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                assert response.status == 200
                return
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
    pytest.fail("the server ended")


def test_a_worker_that_is_stopped_has_folded_all(ring_cache: RingCache, services: Services) -> None:
    """Celery, whose children end without Python's farewell."""
    ring_cache.set(process_exits.THERE, 1)
    with process_exits.app.connection_for_write() as connection:
        broker: redis.Redis = connection.default_channel.client
        for times in (3, 4, 5, 6):
            process_exits.count_in_task.delay(times)
        words = ["--quiet", "-A", process_exits.__name__, "worker", "-P", "prefork", "-c", "2", "-l", "error"]
        words += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = start(sys.executable, "-m", "celery", *words)
        try:
            done = [broker.blpop([f"{process_exits.QUEUE}:done"], 60) for _ in range(4)]
        finally:
            worker.terminate()
            worker.wait(60)
    assert sorted(int(each[1]) for each in done if each) == [3, 4, 5, 6]
    assert (shown().hits, shown().misses) == (18, 18)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # that is the point
def test_a_fork_amid_a_fold_hangs_nobody(ring_cache: RingCache) -> None:
    """The child counts and folds, though a thread of the parent held every lock when it was made."""
    ring_cache.get("k")
    publish_counts("default")
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with ring_cache.client.counters._lock, shutdown._lock:
            held.set()
            forked.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        Counters.on_thread = shutdown._begin
        ring_cache.get("k")
        shutdown.publish_last()
        os._exit(0)
    forked.set()
    holder.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert shown().misses == 2


def test_a_signal_amid_the_farewell_hangs_nobody(ring_cache: RingCache) -> None:
    """Wherever it comes: in each forked child one line later, until one was through before."""
    code, line = -signal.SIGTERM, 0
    while code == -signal.SIGTERM:
        line += 1
        code = end_of_a_child_that_is_sent_sigterm_at(line, ring_cache)
    assert code == 0
    assert line > 10
    assert shown().misses == line


def end_of_a_child_that_is_sent_sigterm_at(line: int, cache: RingCache) -> int:
    """Fork one that counts a miss and folds it; return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = itertools.count(1)

    def trace(_: FrameType, event: str, __: object) -> Any:
        if event == "line" and next(lines) in {line, line + 3}:  # again, while the first is handled
            signal.raise_signal(signal.SIGTERM)
        return trace

    signal.alarm(20)
    signal.signal(signal.SIGTERM, shutdown._end_by_signal)
    Counters.on_thread = shutdown._begin
    cache.get("k")
    sys.settrace(trace)
    shutdown.publish_last()
    sys.settrace(None)
    os._exit(0)


# Nodes that are away, or refuse


def test_a_dead_node_hides_nothing(ring_cache: RingCache, services: Services) -> None:
    """Each minute stands on two; only where both are dead it cannot be seen, which the page says."""
    names = ring_cache.client.ring.names
    for name in names:
        ring_cache.clear_all()
        ring_cache.get_many(["a", "b", "c"])
        publish_counts("default")
        with away(services, ring_cache, name):
            assert shown().misses == 3
    with away(services, ring_cache, *names[:2]):
        unseen = sum(counts is None for counts in counts_by_minute("default", MINUTES).values())
        assert 0 < unseen < MINUTES
        faults = [fault.message for fault in alias_figures("default").faults]
    fault = f"The counts of {unseen} of {MINUTES} minutes of 'default' cannot be read; "
    assert f"{fault}the sums do not include them." in faults


def test_what_could_not_be_folded_is_folded_later(ring_cache: RingCache, services: Services) -> None:
    """A node that is away takes nothing with it."""
    names = ring_cache.client.ring.names
    with away(services, ring_cache, *names):
        ring_cache.get_many([f"k{n}" for n in range(60)])  # every node is found to be away
        publish_counts("default")
    publish_counts("default")
    assert (shown().misses, counts_in_all("default").misses) == (60, 60)


def test_what_is_refused_is_folded_later_and_told(
    ring_cache: RingCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minutes and the sum are told apart: what one refused, the other has."""
    monkeypatch.setattr(publisher, "_publish_failures", LogRateLimit(SYSTEM_CLOCK))
    client, key = ring_cache.client, b"ringcache:counts:demo:default:all"
    node = client.nodes[client.ring.owner(key)]
    node.call((b"SET", key, b"of another"))
    ring_cache.get("k")
    publish_counts("default")
    assert shown().misses == 1
    node.call((b"DEL", key))
    publish_counts("default")
    assert (shown().misses, counts_in_all("default").misses) == (1, 1)
    assert [each.event for each in caplog.records] == ["fold_refused"]  # type: ignore[attr-defined]


def test_another_site_on_the_same_nodes_counts_for_itself(settings: Any, ring_cache: RingCache) -> None:
    """As its KEY_PREFIX says."""
    blocks = settings.CACHES
    settings.CACHES = blocks | {"default": blocks["default"] | {"KEY_PREFIX": "othersite"}}
    caches["default"].get("k")
    publish_counts("default")
    assert shown().misses == 1
    settings.CACHES = blocks
    assert shown() == Counts()
    assert counts_in_all("default") == Counts()


# Times


def test_what_loads_and_gets_take_is_told(ring_cache: RingCache, call: Callable[..., Any]) -> None:
    """Each load, and one get in 64; by the whole fleet."""
    for number in range(130):
        call(ring_cache, "get", f"k{number}")
    for number in range(3):
        call(ring_cache, "get_or_set", f"k{number}", lambda: 1)
    publish_counts("default")
    found = shown()
    assert (found.get_times.count, found.load_times.count) == (2, 3)
    assert 0 < (found.get_times.percentile(0.99) or 0) < 60


@pytest.mark.postgres
def test_what_drains_take_is_told() -> None:
    """Each batch that lands, and how many rows it changed."""
    from django.db.models import F

    from cachebackend import writebehind
    from cacheproject.demo.models import Article

    articles = [Article.objects.create(slug=f"s{number}") for number in range(3)]
    for article in articles:
        Article.behind.update(article.pk, views=F("views") + 1)
    for partition in (partitions := writebehind.seal_dirty()):
        writebehind.drain(partition)
    publish_all()
    [minute] = [each for each in drains_by_minute(3).values() if each is not None and each.rows]
    assert (minute.rows, minute.drain_times.count, minute.parked) == (3, len(partitions), 0)
    assert drains_in_all() == minute


# Beats


def test_the_periodic_tasks_tell_when_they_ran(ring_cache: RingCache, services: Services) -> None:
    """A dead node hides that no more than it hides counts."""
    from cachebackend.tasks import tick

    assert last_runs() == {}
    tick()
    invalidation.relay()
    beats = last_runs()
    assert set(beats) == {"tick", "relay"}
    record_run("tick")
    assert last_runs()["tick"] > beats["tick"]
    ring = ring_cache.client.ring
    with away(services, ring_cache, ring.names[ring.owner(b"ringcache:last_runs:demo")]):
        assert last_runs()["relay"] == beats["relay"]


def test_a_beat_of_no_time_that_there_is_is_none(ring_cache: RingCache) -> None:
    """Whoever put it there: the page shows times, and cannot show those."""
    record_run("tick")
    for node in ring_cache.client.nodes:
        node.call((b"HSET", b"ringcache:last_runs:demo", b"relay", 10**15, b"tick", -1))
    assert last_runs() == {}


def test_beats_that_cannot_be_seen_are_not_taken_for_none(ring_cache: RingCache, services: Services) -> None:
    """And a task goes on that cannot tell."""
    with away(services, ring_cache, *ring_cache.client.ring.names):
        record_run("tick")
        with pytest.raises(NodeUnavailableError):
            last_runs()


def test_an_alias_with_faults_counts_nothing(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its faults are told by who uses it, and not by every process at its end."""
    wrong = settings.CACHES["default"] | {"OPTIONS": {"codec": "none"}}
    with override_settings(CACHES=settings.CACHES | {"wrong": wrong}):
        publish_all()
    assert caplog.records == []
