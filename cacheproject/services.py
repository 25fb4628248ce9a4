"""Real servers as children of this process: ring and queue nodes, a broker, Postgres.

    with Services(ring=3) as services:
        subprocess.run([...], env=os.environ | services.env())

They listen on free ports of the loopback address, which every user of the machine can reach. So each
requires a random password, which is in no command line and in no file that others can read.

They end, and their folder is removed, when this process ends: at the end of the block, after Ctrl-C,
and after SIGKILL. Three mechanisms ensure that: ``close``, the kernel (``PR_SET_PDEATHSIG``, Linux),
and ``reaper``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from cachebackend.testing.embedded import valkey_server
from cacheproject import reaper
from cacheproject.binaries import ring_server
from cacheproject.cluster import CLUSTER_SETTINGS, Cluster, bus_port
from cacheproject.postgres import postgres_server
from cacheproject.server import Server, ServiceError, answers_ping

__all__ = ["ServiceError", "Services"]

_RING_SETTINGS = (
    "--save",
    "",
    "--appendonly",
    "no",
    "--maxmemory",
    "256mb",
    "--maxmemory-policy",
    "allkeys-lfu",
)
_QUEUE_SETTINGS = ("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction")
_BROKER_SETTINGS = ("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
#: The number of servers of a cluster: three primaries and three replicas.
_CLUSTER_SERVERS = 6


class Services:
    """The servers that a project needs, started together.

    Args:
        ring: The number of ring nodes; named ``ring-a``, ``ring-b``, … "cluster": they are a cluster of
            six servers of these names, three primaries and three replicas.
        queue: The number of queue nodes, with AOF; named ``queue-a``, … "cluster": as for ``ring``. With
            any, a broker is started too, named ``broker``.
        postgres: Whether to start Postgres; named ``postgres``.
        appendfsync: When the queue nodes sync their files to disk: ``everysec`` or ``always``.
        durable: Whether Postgres syncs each commit to disk, as in production.

    Raises:
        ServiceError: A server did not start; the message ends with its log.
        MissingBinaryError: A server is not installed.
    """

    def __init__(
        self,
        ring: int | Literal["cluster"] = 3,
        queue: int | Literal["cluster"] = 1,
        postgres: bool = True,
        appendfsync: str = "everysec",
        durable: bool = False,
    ) -> None:
        self._servers: dict[str, Server] = {}
        self._password = secrets.token_hex(16)
        # In /tmp, because the path of a socket has at most 104 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="ringcache-", dir="/tmp"))
        self.folder.chmod(0o711)
        self._reaper = subprocess.Popen(
            [sys.executable, "-S", "-E", reaper.__file__, str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        #: The cluster that the ring nodes are; None: they are plain nodes.
        self.cluster: Cluster | None = None
        #: The cluster that the queue nodes are; None: they are plain nodes.
        self.queue_cluster: Cluster | None = None
        atexit.register(self.close)
        self._ring, ring_settings = _names("ring", ring), _settings(ring)
        self._queue, queue_settings = _names("queue", queue), _settings(queue)
        try:
            for name in self._ring:
                self._add_node(name, (*_RING_SETTINGS, *ring_settings), binary=ring_server())
            for name in self._queue:
                settings = (*_QUEUE_SETTINGS, "--appendfsync", appendfsync, *queue_settings)
                self._add_node(name, settings)
            if queue:
                self._add_node("broker", _BROKER_SETTINGS)
            if postgres:
                self._servers["postgres"] = postgres_server(
                    self.folder, self._on_start, self._password, durable=durable
                )
            for server in self._servers.values():
                server.start()
            for server in self._servers.values():
                server.wait_until_ready()
            if ring == "cluster":
                self.cluster = self._form(self._ring)
            if queue == "cluster":
                self.queue_cluster = self._form(self._queue)
        except BaseException:
            self.close()
            raise

    # Addresses

    @property
    def ring_urls(self) -> list[str]:
        """The URLs of the ring nodes, with their names; of a cluster, its one URL."""
        if self.cluster is not None:
            return [self.cluster.url]
        return [self.node_url(name) for name in self._ring]

    @property
    def queue_urls(self) -> list[str]:
        """The URLs of the queue nodes, with their names; of a cluster, its one URL."""
        if self.queue_cluster is not None:
            return [self.queue_cluster.url]
        return [self.node_url(name) for name in self._queue]

    @property
    def ring_servers(self) -> list[str]:
        """The URL of each server of the ring, or of the cluster."""
        return [self.node_url(name) for name in self._ring]

    @property
    def broker_url(self) -> str | None:
        """The URL of Celery's broker; None without queue nodes."""
        return self.node_url("broker").partition("?")[0] if "broker" in self._servers else None

    @property
    def database_url(self) -> str | None:
        """The URL of the database; None without Postgres."""
        server = self._servers.get("postgres")
        if server is None:
            return None
        return f"postgres://postgres:{self._password}@127.0.0.1:{server.port}/postgres"

    def node_url(self, name: str) -> str:
        """Return the URL of a node, with its name, and with its password if the node was given none."""
        server = self._servers[name]
        account = f":{server.password}@" if server.password else ""
        return f"redis://{account}127.0.0.1:{server.port}/0?name={name}"

    def env(self) -> dict[str, str]:
        """Return the environment variables by which the project's settings use these services."""
        variables = {
            "RING_NODES": ",".join(self.ring_urls),
            "WRITE_BEHIND_NODES": ",".join(self.queue_urls),
            "CELERY_BROKER_URL": self.broker_url,
            "DATABASE_URL": self.database_url,
        }
        return {name: value for name, value in variables.items() if value}

    # Failures that tests cause

    def kill(self, name: str) -> None:
        """End a server at once, like a power cut."""
        process = self._process(name)
        children = reaper.children_of(process.pid)
        process.kill()
        process.wait()
        _signal_each(children, signal.SIGCONT)  # a child of Postgres ends by itself, unless it is suspended

    def stop(self, name: str) -> None:
        """Suspend a server: it keeps its connections and answers nothing."""
        self._signal_all(name, signal.SIGSTOP)
        self._servers[name].is_suspended = True

    def resume(self, name: str) -> None:
        """Continue a suspended server; it has lost nothing."""
        self._signal_all(name, signal.SIGCONT)
        self._servers[name].is_suspended = False

    def _signal_all(self, name: str, number: int) -> None:
        """Send a signal to a server and to its children; Postgres has one for each connection."""
        process = self._process(name)
        process.send_signal(number)
        _signal_each(reaper.children_of(process.pid), number)

    def restart(self, name: str) -> None:
        """Start a server again on its old port; a queue node reads its file, a ring node is empty."""
        server = self._servers[name]
        self._ask_to_end(name)
        server.end()
        server.start()
        server.wait_until_ready(keep_port=True)

    def add_node(self, name: str, *settings: str, conf: str | None = None) -> int:
        """Start one more node and return its port; ``node_url`` returns its URL.

        Args:
            name: The node's name.
            settings: Arguments of its command line.
            conf: The text of a configuration file that the node may rewrite, as a sentinel does. Without
                it, and without ``--requirepass``, the node has the password of the other servers.
        """
        server = self._add_node(name, settings, conf)
        server.start()
        server.wait_until_ready()
        return server.port

    def close(self) -> None:
        """End every server and remove their folder; may be called twice."""
        atexit.unregister(self.close)
        for cluster in filter(None, (self.cluster, self.queue_cluster)):
            cluster.close()
        for name in self._servers:
            self._ask_to_end(name)
        for server in self._servers.values():
            server.end()
        self._servers.clear()
        if self._reaper.stdin is not None and not self._reaper.stdin.closed:
            self._reaper.stdin.close()
        self._reaper.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _form(self, names: Sequence[str]) -> Cluster:
        cluster = Cluster({name: self._servers[name] for name in names})
        cluster.form()
        return cluster

    def _add_node(
        self, name: str, settings: Sequence[str], conf: str | None = None, binary: Path | None = None
    ) -> Server:
        # Its configuration is not among its data, which tests delete and replace
        folder, configuration = self.folder / name, self.folder / f"{name}.conf"
        folder.mkdir(mode=0o700)
        password = self._password if conf is None and "--requirepass" not in settings else None
        configuration.touch(mode=0o600)
        login = f"requirepass {password}\nmasterauth {password}\n"  # a replica sends the password too
        configuration.write_text(login if password else conf or "")
        command = [binary or valkey_server(), configuration, "--bind", "127.0.0.1", "--dir", folder]
        is_in_cluster = "--cluster-enabled" in settings
        server = self._servers[name] = Server(
            name,
            self.folder,
            lambda port: [
                *command,
                *("--port", str(port)),
                *(("--cluster-port", str(bus_port(port))) if is_in_cluster else ()),
                *settings,
            ],
            answers_ping,
            signal.SIGKILL,
            self._on_start,
            password=password,
        )
        return server

    def _ask_to_end(self, name: str) -> None:
        server = self._servers[name]
        if server.process is not None and server.is_running:
            server.process.send_signal(server.stop_signal)
            self._signal_all(name, signal.SIGCONT)  # what is suspended cannot end

    def _on_start(self, pid: int, stop_signal: signal.Signals) -> None:
        """Send the reaper the process to end, and the signal, for when this process is gone."""
        if self._reaper.stdin is not None:
            self._reaper.stdin.write(b"%d %d\n" % (pid, stop_signal))
            self._reaper.stdin.flush()

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        server = self._servers.get(name)
        if server is None or server.process is None:
            message = f"no service {name!r}; there are {', '.join(self._servers)}"
            raise KeyError(message)
        return server.process


def _signal_each(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _names(kind: str, count: int | Literal["cluster"]) -> list[str]:
    return [f"{kind}-{_letters(n)}" for n in range(_CLUSTER_SERVERS if count == "cluster" else count)]


def _settings(count: int | Literal["cluster"]) -> Sequence[str]:
    return CLUSTER_SETTINGS if count == "cluster" else ()


def _letters(number: int) -> str:
    """Return a for 0, z for 25, aa for 26, and so on."""
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("a") + last)
