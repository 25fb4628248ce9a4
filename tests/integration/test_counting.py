"""The counters of all processes: complete however a process ends, and while a node is down."""

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
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit, RateLimit
from cachebackend.counters import Counters, Counts
from cachebackend.errors import NodeUnavailableError
from cachebackend.imports import import_at_first_use
from cachebackend.monitoring import alias_figures, total_query_figures
from cachebackend.monitoring.window import MINUTES
from cachebackend.protocol.telemetry.counters import nodes_of
from cachebackend.telemetry import publisher, shutdown
from cachebackend.telemetry.heartbeat import last_runs, record_run
from cachebackend.telemetry.periods import HOUR, PERIODS, Period
from cachebackend.telemetry.publisher import (
    counts_by_step,
    publish_all,
    publish_counts,
    total_counts,
    total_drains,
    writes_by_step,
)
from cacheproject.demo.models import Article
from cacheproject.processes import free_port
from cacheproject.services import Services
from tests.fix_services import close_breakers
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
    """Return what the page shows, without what this process counted since it last published."""
    found = Counts()
    for counts in counts_by_step("default", HOUR).values():
        assert counts is not None
        found.add(counts)
    return found


@contextlib.contextmanager
def killed(services: Services, cache: RingCache, *names: str) -> Iterator[None]:
    """Kill nodes for the length of a block; afterwards they are restarted, and read again."""
    for name in names:
        services.kill(name)
    try:
        yield
    finally:
        for name in names:
            services.restart(name)
        close_breakers(cache.client.nodes)


# How processes end


def test_the_page_shows_what_all_processes_counted(ring_cache: RingCache) -> None:
    """Exactly, though they end right after: by themselves, or as a child of another process."""
    ring_cache.set(process_exits.THERE, 1)
    ways = {"exit": 17, "fork": 23, "spawn": 55}
    processes = {way: start(*ENDINGS, way, str(times)) for way, times in ways.items()}
    assert {way: process.wait(60) for way, process in processes.items()} == dict.fromkeys(ways, 0)
    total = sum(ways.values())
    hour = alias_figures("default").hour
    assert hour is not None
    assert (hour.hits, hour.misses) == (total, total)
    in_all = total_counts("default").counts
    assert (in_all.hits, in_all.misses) == (total, total)


@pytest.mark.parametrize("period", PERIODS.values(), ids=PERIODS)
def test_each_period_has_all_counts(ring_cache: RingCache, period: Period) -> None:
    """In its current step; the steps before are empty."""
    ring_cache.get_many(["a", "b"])
    publish_counts("default")
    *before, now = counts_by_step("default", period).values()
    assert len(before) == period.steps - 1
    assert (now, set(map(repr, before))) == (Counts(misses=2), {repr(Counts())})


def test_sigterm_keeps_its_default_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler of the app would not run while the process is in one long call of C code."""
    monkeypatch.setattr(Counters, "on_thread", None)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        shutdown.connect()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has counted nothing yet."""
    monkeypatch.setattr(shutdown, "_publisher", None)
    monkeypatch.setattr(shutdown, "_is_missing", False)
    monkeypatch.setattr(Counters, "on_thread", shutdown._start)
    yield
    if shutdown._publisher is not None:
        shutdown._publisher.end()
        shutdown._publisher.join(60)  # end() waits two seconds; the thread must not publish in the next test


def count_in_a_new_thread(cache: RingCache) -> None:
    thread = threading.Thread(target=cache.get, args=("k",))
    thread.start()
    thread.join()


@pytest.mark.usefixtures("unstarted")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_publisher_that_could_not_start_starts_later(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """The process could not start a thread, or a signal handler raised: the next thread tries again."""

    def fail(_: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(shutdown._Publisher, "start", fail)
        shutdown._start()
    count_in_a_new_thread(ring_cache)
    assert shutdown._publisher is not None
    assert shutdown._publisher.is_alive()


@pytest.mark.usefixtures("unstarted")
def test_without_a_publisher_the_end_of_the_process_publishes(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process could never start a thread."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError

    monkeypatch.setattr(shutdown._Publisher, "start", fail)
    publish_counts("default")
    count_in_a_new_thread(ring_cache)
    shutdown.publish_last()
    assert shown().misses == 1


def test_a_server_that_is_stopped_has_published_all(ring_cache: RingCache) -> None:
    """Gunicorn, whose workers end by themselves."""
    ring_cache.set(process_exits.THERE, 1)
    port = free_port(0)
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "2", "--log-level", "critical"]
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # not a path
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


def test_a_worker_that_is_stopped_has_published_all(ring_cache: RingCache, services: Services) -> None:
    """Celery, whose child processes do not run ``atexit``."""
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
def test_a_fork_during_a_publication_does_not_hang(ring_cache: RingCache) -> None:
    """The child counts and publishes, though a thread of the parent held every lock during the fork."""
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
        Counters.on_thread = shutdown._start
        ring_cache.get("k")
        shutdown.publish_last()
        os._exit(0)
    forked.set()
    holder.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert shown().misses == 2


def test_a_signal_during_the_last_publication_does_not_hang(ring_cache: RingCache) -> None:
    """A server's handler may end the process; here it does so at any line, in each forked child one later."""
    import_at_first_use("cachebackend.protocol.telemetry")  # else it does so in each line of these modules
    code, line = -signal.SIGTERM, 0
    while code == -signal.SIGTERM:
        line += 1
        code = exit_code_of_a_child_with_sigterm_at(line, ring_cache)
    assert code == 0
    assert line > 10
    assert shown().misses == line


def exit_code_of_a_child_with_sigterm_at(line: int, cache: RingCache) -> int:
    """Fork a child that counts a miss and publishes it; return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = itertools.count(1)

    def trace(_: FrameType, event: str, __: object) -> Any:
        if event == "line" and next(lines) in {line, line + 3}:  # again, while the first is handled
            signal.raise_signal(signal.SIGTERM)
        return trace

    def end(number: int, _: FrameType | None) -> None:
        shutdown.publish_last()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.alarm(20)
    signal.signal(signal.SIGTERM, end)
    Counters.on_thread = shutdown._start
    cache.get("k")
    sys.settrace(trace)
    shutdown.publish_last()
    sys.settrace(None)
    os._exit(0)


# Nodes that are down, or refuse


def unseen_minutes() -> int:
    return sum(counts is None for counts in counts_by_step("default", HOUR).values())


@pytest.mark.ring_of_nodes
def test_a_dead_node_hides_nothing(ring_cache: RingCache, services: Services) -> None:
    """Each minute is on two nodes; only while both are dead it is unknown, and the page says so."""
    names = ring_cache.client.ring.names
    for name in names:
        ring_cache.clear_all()
        ring_cache.get_many(["a", "b", "c"])
        publish_counts("default")
        with killed(services, ring_cache, name):
            known = filter(None, counts_by_step("default", HOUR).values())
            assert sum(each.misses for each in known) == 3
    with killed(services, ring_cache, *names[:2]):
        unseen = {unseen_minutes()}
        faults = [fault.message for fault in alias_figures("default").faults]
        unseen |= {unseen_minutes()}  # a minute may have begun
    assert all(0 < each <= MINUTES for each in unseen)
    expected = {
        f"The counts of {each} of {MINUTES} minutes of 'default' cannot be read; "
        "the sums do not include them."
        for each in unseen
    }
    assert not expected.isdisjoint(faults)


@pytest.mark.ring_of_nodes
def test_a_total_never_falls_because_a_node_is_away_or_was_emptied(
    ring_cache: RingCache, services: Services
) -> None:
    """A copy that came back empty gets its counts back from the other one, before that one is lost."""
    names = ring_cache.client.ring.names
    ring_cache.get_many(["a", "b", "c"])
    Article.cached.filter(price=1).count()
    publish_counts("default")
    before = total_counts("default").counts, total_query_figures("default")
    for name in names:
        with killed(services, ring_cache, name):
            assert (total_counts("default").counts, total_query_figures("default")) == before
        for _ in range(2):  # a difference counts only if it is still there at the second read
            assert (total_counts("default").counts, total_query_figures("default")) == before
    ring_cache.get("d")
    publish_counts("default")
    assert total_counts("default").counts.misses == before[0].misses + 1


@pytest.mark.ring_of_nodes
def test_sums_that_may_be_too_low_say_so(ring_cache: RingCache, services: Services) -> None:
    """A node that stores counts is away: the others may lack some. Nothing on the other node is unknown."""
    names = ring_cache.client.ring.names
    ring_cache.get("k")
    publish_counts("default")
    assert (alias_figures("default").low_sums, total_counts("default").missing) == ("", ())
    client, key = ring_cache.client, b"ringcache:counts:demo:default:all"
    away, _ = nodes_of(client.context, key)
    minute = [*counts_by_step("default", HOUR)][-1]
    key = b"ringcache:counts:demo:default:%d" % minute
    away_of_minute, other_of_minute = nodes_of(client.context, key)
    client.nodes[other_of_minute].call((b"DEL", key))  # evicted
    with killed(services, ring_cache, names[away]):
        assert total_counts("default").missing == (names[away],)
        text = f"At least: some counts are on {names[away]}, which does not answer."
        assert alias_figures("default").low_sums == text
    with killed(services, ring_cache, names[away_of_minute]):
        assert counts_by_step("default", HOUR)[minute] is None


@pytest.mark.ring_of_nodes
def test_a_total_does_not_fall_for_a_process_that_read_it(ring_cache: RingCache, services: Services) -> None:
    """One node is away, and the other one has just been emptied: nobody could give it its counts back."""
    ring_cache.get_many(["a", "b", "c"])
    publish_counts("default")
    before = total_counts("default").counts
    away, other = nodes_of(ring_cache.client.context, b"ringcache:counts:demo:default:all")
    ring_cache.client.nodes[other].call((b"FLUSHALL",))
    with killed(services, ring_cache, ring_cache.client.ring.names[away]):
        assert total_counts("default").counts == before


@pytest.mark.ring_of_nodes
def test_the_relay_gives_each_copy_of_the_counts_back_what_it_lacks(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a minute, so that nothing is lost with the next node although nobody reads the counts.

    The minute is over; the ten minutes and the hour may not be.
    """
    now = publisher.time.time()
    monkeypatch.setattr(publisher.time, "time", lambda: now - 120)
    ring_cache.get_many(["a", "b", "c"])
    publish_counts("default")
    monkeypatch.undo()
    monkeypatch.setattr(publisher, "_levels", RateLimit(SYSTEM_CLOCK, 0.0))  # whenever it is asked
    stem = b"ringcache:counts:demo:default"
    settled = {b"%s:%d" % (stem, int(now - 120) // 60), b"%s:all" % stem}
    found = 0
    for node in ring_cache.client.nodes:
        keys = [key for key in node.call((b"KEYS", b"ringcache:counts:*")) if key in settled]
        before = {key: node.call((b"HGETALL", key)) for key in keys}
        node.call((b"FLUSHALL",))
        publisher.level_all()
        publisher.level_all()
        after = {key: node.call((b"HGETALL", key)) for key in keys}
        found += len(keys)
        assert {key: sorted(fields) for key, fields in after.items()} == {
            key: sorted(fields) for key, fields in before.items()
        }
    assert found == 4  # the minute and the total, each on two nodes


@pytest.mark.ring_of_nodes
def test_minutes_that_were_lost_with_all_nodes_are_gaps(ring_cache: RingCache, services: Services) -> None:
    """The chart shows no zeros for the time before; that is not a fault. The present minute is known."""
    ring_cache.get("k")
    publish_counts("default")
    figures = alias_figures("default")
    assert figures.hour is not None
    with killed(services, ring_cache, *ring_cache.client.ring.names):
        pass
    figures = alias_figures("default")
    *before, last = figures.minutes.values()
    assert set(before) == {None}
    assert last is not None
    assert figures.faults == []


@pytest.mark.ring_of_nodes
def test_counts_that_could_not_be_published_are_published_later(
    ring_cache: RingCache, services: Services
) -> None:
    """While no node answers, counts stay in the process."""
    names = ring_cache.client.ring.names
    with killed(services, ring_cache, *names):
        ring_cache.get_many([f"k{n}" for n in range(60)])  # every node turns out to be down
        publish_counts("default")
    publish_counts("default")
    assert (shown().misses, total_counts("default").counts.misses) == (60, 60)


def test_refused_counts_are_published_later_and_logged(
    ring_cache: RingCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minutes and the total are separate: one is added although the other is refused."""
    monkeypatch.setattr(publisher, "_refusals", LogRateLimit(SYSTEM_CLOCK))
    client, key = ring_cache.client, b"ringcache:counts:demo:default:all"
    nodes = [client.nodes[index] for index in nodes_of(client.context, key)]
    for node in nodes:
        node.call((b"SET", key, b"of another"))
    ring_cache.get("k")
    publish_counts("default")
    assert shown().misses == 1
    for node in nodes:
        node.call((b"DEL", key))
    publish_counts("default")
    assert (shown().misses, total_counts("default").counts.misses) == (1, 1)
    assert [each.event for each in caplog.records] == ["fold_refused"]  # type: ignore[attr-defined]


def test_another_site_on_the_same_nodes_counts_for_itself(settings: Any, ring_cache: RingCache) -> None:
    """Sites are separated by their KEY_PREFIX."""
    blocks = settings.CACHES
    settings.CACHES = blocks | {"default": blocks["default"] | {"KEY_PREFIX": "othersite"}}
    caches["default"].get("k")
    publish_counts("default")
    assert shown().misses == 1
    settings.CACHES = blocks
    assert shown() == Counts()
    assert total_counts("default").counts == Counts()


# Times


def test_the_times_of_loads_and_gets_are_published(ring_cache: RingCache, call: Callable[..., Any]) -> None:
    """Each load, and one get in 64."""
    for number in range(130):
        call(ring_cache, "get", f"k{number}")
    for number in range(3):
        call(ring_cache, "get_or_set", f"k{number}", lambda: 1)
    publish_counts("default")
    found = shown()
    assert (found.get_times.count, found.load_times.count) == (2, 3)
    assert 0 < (found.get_times.percentile(0.99) or 0) < 60


@pytest.mark.postgres
def test_the_times_of_drains_are_published() -> None:
    """Each batch that is drained, and how many rows it changed."""
    from django.db.models import F

    from cachebackend import writebehind

    articles = [Article.objects.create(slug=f"s{number}") for number in range(3)]
    for article in articles:
        Article.behind.update(article.pk, views=F("views") + 1)
    for partition in (partitions := writebehind.seal_dirty()):
        writebehind.drain(partition)
    publish_all()
    [minute] = [each for each in writes_by_step(HOUR, 3).values() if each is not None and each.rows]
    assert (minute.rows, minute.drain_times.count, minute.parked) == (3, len(partitions), 0)
    assert total_drains().counts == minute


# Periodic tasks


@pytest.mark.ring_of_nodes
def test_the_periodic_tasks_record_when_they_ran(ring_cache: RingCache, services: Services) -> None:
    """A dead node does not hide it: the times are on two nodes."""
    from cachebackend.tasks import tick

    assert last_runs() == {}
    tick()
    invalidation.relay()
    runs = last_runs()
    assert set(runs) == {"tick", "relay"}
    record_run("tick")
    assert last_runs()["tick"] > runs["tick"]
    ring = ring_cache.client.ring
    with killed(services, ring_cache, ring.names[ring.owner(b"ringcache:beats:demo")]):
        assert last_runs()["relay"] == pytest.approx(
            runs["relay"], abs=60
        )  # each node has a clock of its own


def test_an_impossible_time_is_ignored(ring_cache: RingCache) -> None:
    """One in the far future or before 1970, which the page could not show."""
    record_run("tick")
    for node in ring_cache.client.nodes:
        node.call((b"HSET", b"ringcache:beats:demo", b"relay", b"1" + b"0" * 15, b"tick", b"-1"))
    assert last_runs() == {}


@pytest.mark.ring_of_nodes
def test_times_that_cannot_be_read_are_an_error(ring_cache: RingCache, services: Services) -> None:
    """They do not look like tasks that never ran; a task that cannot record its run runs all the same."""
    with killed(services, ring_cache, *ring_cache.client.ring.names):
        record_run("tick")
        with pytest.raises(NodeUnavailableError):
            last_runs()


def test_an_alias_with_faults_counts_nothing(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its faults are reported by its users and by the checks, not by every process that ends."""
    wrong = settings.CACHES["default"] | {"OPTIONS": {"codec": "none"}}
    with override_settings(CACHES=settings.CACHES | {"wrong": wrong}):
        publish_all()
    assert caplog.records == []
