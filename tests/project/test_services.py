"""Real servers as children: named, restartable, and ended with their parent."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cacheproject.processes import MANAGE
from cacheproject.services import Services


def ping(url: str) -> bool:
    port = int(url.rpartition(":")[2].partition("/")[0])
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as node:
            node.sendall(b"PING\r\n")
            return node.recv(16).startswith(b"+PONG")
    except OSError:
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
