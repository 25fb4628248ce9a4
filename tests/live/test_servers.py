"""Real web servers and workers: no error and no open connection after fork, reload and stop."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from cacheproject.processes import MANAGE, free_port
from cacheproject.services import Services
from tests.fix_services import connections_of

#: What must not be in a log; Celery's warning about root is allowed.
WRONG = re.compile(r"^.*(Traceback|ERROR|CRITICAL|ejected|(?<!Security)Warning).*$", re.MULTILINE)
AT_ONCE = 6
REQUESTS = 80
#: Whether all servers are tested; ``make soak`` sets it.
TESTS_ALL = os.environ.get("SERVERS") == "all"

GUNICORN = ("gunicorn", "--graceful-timeout", "5", "--no-control-socket", "tests.live.served:wsgi")
UVICORN = ("uvicorn", "--log-level", "warning", "tests.live.served:asgi")
#: Command line, page, number of processes, and concurrent requests of each process.
SERVERS = {
    "gunicorn, sync, preload": ((*GUNICORN, "-w", "2", "--preload"), "blocking", 3, 1),
    "gunicorn, gthread": ((*GUNICORN, "-k", "gthread", "--threads", "4"), "blocking", 1, 4),
    "gunicorn, gevent": ((*GUNICORN, "-k", "gevent"), "blocking", 1, AT_ONCE),
    "uvicorn": (UVICORN, "awaiting", 1, 2),
}
OTHER_SERVERS = {
    "gunicorn, sync": ((*GUNICORN, "-w", "2"), "blocking", 2, 1),
    "gunicorn, gthread, preload": (
        (*GUNICORN, "-k", "gthread", "--threads", "4", "--preload"),
        "blocking",
        2,
        4,
    ),
    "uvicorn, two workers": ((*UVICORN, "--workers", "2"), "awaiting", 2, 2),
    "uvicorn, blocking views": (UVICORN, "blocking", 1, AT_ONCE + 1),
}
POOLS = {
    "prefork": ("-P", "prefork", "-c", "2", "--max-tasks-per-child", "30"),
    "threads": ("-P", "threads", "-c", "4"),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[Services]:
    """Ring nodes that no other process is connected to, and a broker."""
    with Services(ring=2, queue=1, postgres=False) as services:
        yield services


class Served:
    """A web server or worker of the site: its process and its log."""

    def __init__(self, services: Services, arguments: Sequence[str], log: Path) -> None:
        self.services = services
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=MANAGE.parent,
                env=os.environ | services.env(),
                stdout=output,
                stderr=output,
            )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return once the condition is true; fail after half a minute, or if the server ends."""
        for _ in range(600):
            if condition():
                return
            assert self.process.poll() is None, self._log.read_text()
            threading.Event().wait(0.05)
        pytest.fail(f"{condition} is never true:\n{self._log.read_text()}")

    def children(self) -> set[int]:
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def stop(self) -> None:
        """End it as a deploy does; no connection and no error may remain."""
        self.process.terminate()
        assert self.process.wait(30) in {0, -signal.SIGTERM}
        for _ in range(100):
            if not connections_of(self.services):
                break
            threading.Event().wait(0.05)
        assert connections_of(self.services) == 0
        assert not (wrong := WRONG.search(self._log.read_text())), wrong[0]


@contextlib.contextmanager
def running(services: Services, arguments: Sequence[str], log: Path) -> Iterator[Served]:
    served = Served(services, arguments, log)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()


def get(port: int, page: str, number: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}/{number}/", timeout=20) as answer:
        body: bytes = answer.read()
    return body


def answers(port: int, page: str) -> bool:
    with contextlib.suppress(OSError):
        return get(port, page, 0) == b"a page"
    return False


def requests_counted(url: str) -> int:
    """Return how many requests the site has counted on the node of this URL."""
    with redis.Redis.from_url(url.partition("?")[0]) as node:
        return int(node.get(":1:requests") or 0)


@pytest.mark.parametrize("name", [*SERVERS, *(OTHER_SERVERS if TESTS_ALL else ())])
def test_a_server_leaves_no_connection(name: str, servers: Services, tmp_path: Path) -> None:
    """Under load, after reloads, and after the end; each page is answered."""
    arguments, page, processes, at_once = (SERVERS | OTHER_SERVERS)[name]
    # Each process has at most one connection for each concurrent request, one for its near cache, and one
    # for its report
    maximum = processes * (at_once + 2) * len(servers.ring_urls)
    port = free_port(0)
    bound = ("--bind", f"127.0.0.1:{port}") if arguments[0] == "gunicorn" else ("--port", str(port))

    def load() -> set[bytes]:
        return set(users.map(lambda number: get(port, page, number), range(REQUESTS)))

    with (
        running(servers, (*arguments, *bound), tmp_path / "log") as served,
        ThreadPoolExecutor(AT_ONCE) as users,
    ):
        served.wait_for(lambda: answers(port, page))
        for _ in range(2):
            assert load() == {b"a page"}
            assert connections_of(servers) <= maximum
        if arguments[0] == "gunicorn":
            before = served.children()
            served.process.send_signal(signal.SIGHUP)
            served.wait_for(lambda: not before & served.children() and bool(served.children()))
            assert load() == {b"a page"}
            assert connections_of(servers) <= maximum
        served.stop()


def test_a_greenlet_waits_for_a_node_no_longer_than_a_thread(servers: Services, tmp_path: Path) -> None:
    """A suspended node is a miss after the timeout: gevent's sockets must have the same timeout."""
    port = free_port(0)
    arguments = (*GUNICORN, "-k", "gevent", "--bind", f"127.0.0.1:{port}")
    with running(servers, arguments, tmp_path / "log") as served:
        served.wait_for(lambda: answers(port, "blocking"))
        # Not the node of the counter: while it is down, no request can be counted
        away = "ring-b" if requests_counted(servers.ring_urls[0]) else "ring-a"
        servers.stop(away)
        try:
            assert {get(port, "blocking", number) for number in range(AT_ONCE)} == {b"a page"}
        finally:
            servers.resume(away)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_leaves_no_connection(
    pool: str, servers: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its children are replaced after some tasks."""
    monkeypatch.setenv("CELERY_BROKER_URL", str(servers.broker_url))  # Celery prefers it to all settings
    alone = ("--without-mingle", "--without-gossip")
    arguments = ("celery", "-A", "tests.live.served", "worker", "-l", "warning", *alone, *POOLS[pool])
    with running(servers, arguments, tmp_path / "log") as served:
        from celery import Celery

        before = sum(map(requests_counted, servers.ring_urls))
        with Celery("served") as sender:
            for number in range(REQUESTS):
                sender.send_task("tests.live.served.ask", (number,))
        served.wait_for(lambda: sum(map(requests_counted, servers.ring_urls)) >= before + REQUESTS)
        # The parent, and children with one task at a time or threads, each with a near cache's connection
        maximum = {"prefork": 3 * 2, "threads": 4 + 1 + 1}[pool] * len(servers.ring_urls)
        assert connections_of(servers) <= maximum
        served.stop()
