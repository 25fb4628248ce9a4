"""Real servers as children: named, restartable, and ended with their parent."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cacheproject.processes import MANAGE
from cacheproject.services import Services


def ping(url: str) -> bool:
    retry = Retry(NoBackoff(), 0)
    with redis.Redis.from_url(url.partition("?")[0], socket_timeout=1, retry=retry) as node:
        try:
            return bool(node.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(watched: list[int]) -> bool:
    """Return whether each process (by its pidfd) ends within ten seconds."""
    return all(select.select([fd], [], [], 10)[0] for fd in watched)


def test_any_part_may_be_left_out() -> None:
    """The environment has only the services that were started."""
    with Services(ring=2, queue=0, postgres=False) as services:
        assert [url.partition("?")[2] for url in services.ring_urls] == ["name=ring-a", "name=ring-b"]
        assert services.queue_urls == []
        assert services.broker_url is None
        assert services.database_url is None
        assert set(services.env()) == {"RING_NODES"}
        assert all(ping(url) for url in services.ring_urls)
    assert not services.folder.exists()


def test_a_node_is_killed_stopped_resumed_and_restarted_under_its_name() -> None:
    """Its address stays the same."""
    with Services(ring=1, queue=0, postgres=False) as services:
        [url] = services.ring_urls
        services.kill("ring-a")
        assert not ping(url)
        services.restart("ring-a")
        assert ping(url)
        services.stop("ring-a")
        assert not ping(url)
        services.resume("ring-a")
        assert ping(url)
        with pytest.raises(KeyError, match="no service 'ring-z'; there are ring-a"):
            services.kill("ring-z")


@pytest.mark.parametrize("end", ["close", "kill", "restart"])
def test_a_suspended_postgres_ends_with_the_processes_of_its_connections(end: str) -> None:
    """They are suspended too, and a suspended process cannot end."""
    with ExitStack() as connections, Services(ring=0, queue=0) as services:
        connection = connections.enter_context(closing(psycopg.connect(str(services.database_url))))
        children = children_of(services._process("postgres").pid)
        assert connection.info.backend_pid in children
        watched = [os.pidfd_open(child) for child in children]
        services.stop("postgres")
        getattr(services, end)(*(() if end == "close" else ("postgres",)))
        assert ended(watched)


def test_another_user_of_the_machine_has_no_access() -> None:
    """No server answers without a password, on a port or a socket; no file and no command line shows it."""
    with Services(ring=1, queue=1) as services:
        services.add_node("one-more", "--save", "")
        nodes = [
            *services.ring_urls,
            *services.queue_urls,
            str(services.broker_url),
            services.node_url("one-more"),
        ]
        for url in nodes:
            assert ping(url)
            without = f"redis://{url.rpartition('@')[2].partition('?')[0]}"
            with redis.Redis.from_url(without) as node, pytest.raises(redis.AuthenticationError):
                node.ping()
        url = str(services.database_url)
        port = url.rpartition(":")[2].partition("/")[0]
        psycopg.connect(url).close()
        for host in ("127.0.0.1", str(services.folder / "s")):
            with pytest.raises(psycopg.OperationalError, match="no password supplied"):
                psycopg.connect(host=host, port=port, user="postgres", dbname="postgres")
        password = str(urlsplit(url).password)
        commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children_of(os.getpid())]
        assert len(commands) >= 5
        assert not any(password in command for command in commands)
        private = stat.S_IRWXG | stat.S_IRWXO
        entries = {entry: entry.stat().st_mode & private for entry in services.folder.iterdir()}
        assert [entry for entry, rights in entries.items() if rights and entry.name != "software"] == []


def test_the_command_can_start_a_cluster() -> None:
    """Its URL is the only one of RING_NODES, and all of it ends with the command."""
    command = [
        sys.executable,
        str(MANAGE),
        "services",
        "--json",
        "--cluster",
        "--queue",
        "0",
        "--no-postgres",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        environment = json.loads(parent.stdout.readline())
        parent.send_signal(signal.SIGTERM)
    assert parent.returncode == 0
    assert environment.keys() == {"RING_NODES"}
    assert environment["RING_NODES"].startswith("redis+cluster://:")


def test_a_suspended_postgres_ends_when_the_parent_is_killed() -> None:
    """With the processes of its connections."""
    command = [sys.executable, str(MANAGE), "services", "--json", "--ring", "0", "--queue", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        url = json.loads(parent.stdout.readline())["DATABASE_URL"]
        with closing(psycopg.connect(url)) as connection:
            [postgres] = [child for child in children_of(parent.pid) if children_of(child)]
            processes = [postgres, *children_of(postgres)]
            assert connection.info.backend_pid in processes
            watched = [os.pidfd_open(process) for process in processes]
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            parent.kill()
            assert ended(watched)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_or_file_remains_when_the_parent_ends(number: signal.Signals) -> None:
    """Even after SIGKILL."""
    command = [sys.executable, str(MANAGE), "services", "--json", "--ring", "1"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stderr is not None
    with parent, parent.stdout as stdout, parent.stderr as stderr:
        environment = json.loads(stdout.readline())
        assert set(environment) == {"RING_NODES", "WRITE_BEHIND_NODES", "CELERY_BROKER_URL", "DATABASE_URL"}
        assert ping(environment["RING_NODES"].partition("?")[0])
        stderr.readline()  # from here on it waits
        children = children_of(parent.pid)
        folders = {
            Path(argument)
            for child in children
            for argument in Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if argument.startswith("/tmp/ringcache-") and argument.count("/") == 2
        }
        assert len(children) == 5  # the reaper, a ring node, a queue node, the broker, Postgres
        assert len(folders) == 1
        watched = [os.pidfd_open(child) for child in children]
        parent.send_signal(number)
        assert parent.wait(20) == (-number if number is signal.SIGKILL else 0)
    assert ended(watched)
    for fd in watched:
        os.close(fd)
    assert not any(folder.exists() for folder in folders)
