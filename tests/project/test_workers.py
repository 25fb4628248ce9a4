"""Real workers: a Celery process with beat, a real broker, and a drain that a lock delays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from django.db import connection
from django.db.models import F

from cachebackend import writebehind
from cachebackend.testing.embedded import die_with
from cacheproject.demo.models import Article
from cacheproject.processes import MANAGE
from cacheproject.services import Services
from tests.sessions import session

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_nodes", "prefix_of_tests"),
]
#: Seconds between two ticks here, and until a test gives up.
INTERVAL, PATIENCE = 0.1, 60.0


@pytest.fixture
def article() -> Article:
    """A row."""
    return Article.objects.create(slug="first", title="First")


@pytest.fixture
def broker(services: Services) -> Iterator[redis.Redis]:
    """The broker, empty before and after the test."""
    with redis.Redis.from_url(str(services.broker_url)) as client:
        client.delete("celery", "drains", "periodic")
        yield client
        client.delete("celery", "drains", "periodic")


class Worker:
    """A worker with one slot, and beat, on the test database."""

    def __init__(self, pool: str, log: Path) -> None:
        self._log = log
        database = connection.settings_dict
        environment = {
            "DATABASE_URL": f"{os.environ['DATABASE_URL'].rpartition('/')[0]}/{database['NAME']}",
            "CELERY_WORKER_POOL": pool,
            "WRITE_BEHIND_FLUSH_INTERVAL": str(INTERVAL),
        }
        command = "-m celery --quiet -A cacheproject worker -c 1 -l info -B --scheduler celery.beat.Scheduler"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command.split(), "--without-gossip", "--without-mingle"],
                cwd=MANAGE.parent,
                env=os.environ | environment | {"DJANGO_SETTINGS_MODULE": "cacheproject.settings"},
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with(os.getpid(), signal.SIGKILL),  # noqa: PLW1509  # it only makes a system call
            )

    def log_count(self, text: str) -> int:
        """Return how many times its log contains some words."""
        return self._log.read_text().count(text)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        waits = threading.Event()
        for _ in range(int(PATIENCE / INTERVAL)):
            if is_so():
                return
            assert self.process.poll() is None, self._log.read_text()
            waits.wait(INTERVAL)
        pytest.fail(self._log.read_text())


@contextlib.contextmanager
def running(pool: str, log: Path) -> Iterator[Worker]:
    worker = Worker(pool, log)
    try:
        yield worker
    finally:
        os.killpg(worker.process.pid, signal.SIGKILL)  # with its beat, which is another process
        worker.process.wait()


@contextlib.contextmanager
def held(article: Article) -> Iterator[Callable[[], None]]:
    """Lock a row, so that the drain that changes it waits; yield the function that unlocks it."""
    with session(f"SELECT 1 FROM demo_article WHERE id = {article.pk} FOR UPDATE") as cursor:
        yield lambda: cursor.execute("ROLLBACK")


def is_held() -> bool:
    """Return whether a drain waits for the row."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(cursor.fetchone()[0])


def views(article: Article) -> int:
    article.refresh_from_db()
    return article.views


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_stopping_worker_finishes_its_batch(
    article: Article, broker: redis.Redis, tmp_path: Path, pool: str
) -> None:
    """Its current drain commits, and then the worker ends."""
    Article.behind.update(article.pk, views=F("views") + 1)
    with held(article) as let_go, running(pool, tmp_path / "log") as worker:
        worker.until(is_held)
        worker.process.terminate()
        worker.until(lambda: worker.log_count("Warm shutdown") > 0)
        assert views(article) == 0
        let_go()
        assert worker.process.wait(PATIENCE) == 0
    assert views(article) == 1
    assert writebehind.dirty_partitions() == []


def test_drains_that_are_slower_than_ticks_do_not_pile_up(
    article: Article, broker: redis.Redis, tmp_path: Path
) -> None:
    """Ticks that ran late send no task for a partition whose last task has not begun."""
    Article.behind.update(article.pk, views=F("views") + 1)
    with held(article) as let_go, running("prefork", tmp_path / "log") as worker:
        worker.until(is_held)
        before = worker.log_count("Sending due task ringcache.tick")
        worker.until(lambda: worker.log_count("Sending due task ringcache.tick") > before + 30)
        let_go()
        worker.until(lambda: worker.log_count("Task cachebackend.tasks.tick[") >= 60)
        worker.until(lambda: int(broker.llen("drains")) <= 2)  # type: ignore[arg-type]  # blocking, so an int
        worker.until(lambda: views(article) == 1)
        ran = worker.log_count("Task cachebackend.tasks.drain[")
    assert ran < 20


def test_celery_carries_a_drain_for_a_partition_and_not_one_for_a_write(
    article: Article, broker: redis.Redis
) -> None:
    """Ticks send no second one before it has begun, and the task never expires: no clock matters."""
    from cachebackend.tasks import drain, tick

    for _ in range(50):
        Article.behind.update(article.pk, views=F("views") + 1)
    assert [tick(), tick(), tick()] == [1, 0, 0]
    [message] = broker.lrange("drains", 0, -1)  # type: ignore[misc]  # blocking, so a list
    headers = json.loads(message)["headers"]
    assert (headers["task"], headers["expires"]) == ("cachebackend.tasks.drain", None)
    [(partition, _)] = writebehind.dirty_partitions()
    assert drain(partition.label, partition.number) == 1
    Article.behind.update(article.pk, views=F("views") + 1)
    assert tick() == 1


def test_a_worker_says_at_its_start_that_drains_wait_behind_other_tasks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only if the drains have no queue of their own; else that the periodic tasks have none."""
    from cachebackend.tasks import log_shared_queue
    from workers.app import app

    log_shared_queue(SimpleNamespace(app=app))
    assert caplog.messages == []
    log_shared_queue(SimpleNamespace(app=Celery("site", set_as_current=False)))
    [message] = caplog.messages
    assert message.startswith("write-behind: drains wait behind the other tasks of Celery's queue 'celery'")


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({"task_routes": {"cachebackend.tasks.*": {"exchange": "e", "routing_key": "k"}}}, []),
        (
            {"task_routes": {"cachebackend.tasks.*": {"queue": "own"}}},
            ["relay and tick wait behind drains in Celery's queue"],
        ),
        (
            {
                "task_routes": {"cachebackend.tasks.*": {"queue": "own"}},
                "task_create_missing_queues": False,
            },
            ["write-behind: no drain can be sent: CELERY_TASK_ROUTES names an unknown queue"],
        ),
    ],
    ids=["exchange", "queue", "unknown queue"],
)
def test_a_worker_starts_with_each_kind_of_route(
    settings: dict[str, Any], logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A route names a queue or an exchange, and Celery may know no other queues than the given ones."""
    from cachebackend.tasks import log_shared_queue

    app = Celery("site", set_as_current=False)
    app.conf.update(settings)
    log_shared_queue(SimpleNamespace(app=app))
    assert [message[: len(text)] for message, text in zip(caplog.messages, logged, strict=True)] == logged
