"""Real servers as children of this process: ring and queue nodes, a broker, Postgres.

    with Services(ring=3) as services:
        subprocess.run([...], env=os.environ | services.env())

They listen on free ports of the loopback address and are gone, with their folder, when
this process is: at the end of the block, after Ctrl-C, and after SIGKILL. Three things
see to that: ``close``, the kernel (``PR_SET_PDEATHSIG``, Linux), and ``reaper``.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cachebackend.testing.embedded import die_with, valkey_server
from cacheproject import reaper
from cacheproject.binaries import postgres_folder, ring_server

__all__ = ["ServiceError", "Services"]

#: A busy machine takes its time; and what a killed Postgres leaves behind must be gone before it comes back.
START_SECONDS = 60.0
#: A port that is free when it is looked for may be taken when it is bound.
START_TRIES = 5
_POSTGRES_SETTINGS = {"listen_addresses": "127.0.0.1", "max_connections": "60"}
#: Nothing here outlives the test or demo, so nothing needs to reach a disk.
_FORGETFUL = {"fsync": "off", "full_page_writes": "off"}
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


class ServiceError(RuntimeError):
    """A server did not start."""


@dataclass
class _Server:
    """One server: how it is started, and its process."""

    name: str
    command: Callable[[int], Sequence[str | Path]]
    is_ready: Callable[[_Server], bool]
    stop_signal: signal.Signals
    user: pwd.struct_passwd | None = None
    environment: dict[str, str] | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)


class Services:
    """The servers that a project needs, started together.

    Args:
        ring: How many ring nodes; named ``ring-a``, ``ring-b``, …
        queue: How many queue nodes, with AOF; named ``queue-a``, … One or more brings a
            broker, named ``broker``.
        postgres: Whether to start Postgres; named ``postgres``.
        appendfsync: When the queue nodes write their files to the disk: ``everysec`` or ``always``.
        durable: Whether Postgres brings each commit to its disk, as people run it.

    Raises:
        ServiceError: A server did not start; says what it logged.
        MissingBinaryError: A server is not installed.
    """

    def __init__(
        self,
        ring: int = 3,
        queue: int = 1,
        postgres: bool = True,
        appendfsync: str = "everysec",
        durable: bool = False,
    ) -> None:
        self._servers: dict[str, _Server] = {}
        # Short: a socket's path may have 104 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="ringcache-", dir="/tmp"))
        self.folder.chmod(0o711)
        self._reaper = subprocess.Popen(
            [sys.executable, "-S", "-E", reaper.__file__, str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        atexit.register(self.close)
        self._ring = [f"ring-{_letters(number)}" for number in range(ring)]
        self._queue = [f"queue-{_letters(number)}" for number in range(queue)]
        try:
            for name in self._ring:
                self._add_node(name, _RING_SETTINGS, server=ring_server())
            for name in self._queue:
                self._add_node(name, (*_QUEUE_SETTINGS, "--appendfsync", appendfsync))
            if queue:
                self._add_node("broker", _BROKER_SETTINGS)
            if postgres:
                self._add_postgres({} if durable else _FORGETFUL)
            for server in self._servers.values():
                self._spawn(server)
            for server in self._servers.values():
                self._await(server)
        except BaseException:
            self.close()
            raise

    # Where they are

    @property
    def ring_urls(self) -> list[str]:
        """The URLs of the ring nodes, with their names."""
        return [f"{self._node_url(name)}?name={name}" for name in self._ring]

    @property
    def queue_urls(self) -> list[str]:
        """The URLs of the queue nodes, with their names."""
        return [f"{self._node_url(name)}?name={name}" for name in self._queue]

    @property
    def broker_url(self) -> str | None:
        """The URL of Celery's broker; None without queue nodes."""
        return self._node_url("broker") if "broker" in self._servers else None

    @property
    def database_url(self) -> str | None:
        """The URL of the database; None without Postgres."""
        server = self._servers.get("postgres")
        return f"postgres://postgres@127.0.0.1:{server.port}/postgres" if server else None

    def env(self) -> dict[str, str]:
        """Return the environment that tells a Django process of these services."""
        found = {
            "RING_NODES": ",".join(self.ring_urls),
            "WRITE_BEHIND_NODES": ",".join(self.queue_urls),
            "CELERY_BROKER_URL": self.broker_url,
            "DATABASE_URL": self.database_url,
        }
        return {name: value for name, value in found.items() if value}

    # What tests do to them

    def kill(self, name: str) -> None:
        """End a server at once, as a power cut does."""
        process = self._process(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """Hold a server still: it keeps its connections and answers nothing."""
        self._process(name).send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a stopped server go on, with all that it had."""
        self._process(name).send_signal(signal.SIGCONT)

    def restart(self, name: str) -> None:
        """Start a server anew at its old address; a queue node reads its file, a ring node is empty."""
        server = self._servers[name]
        if server.process is not None and server.process.poll() is None:
            self._end(server)
        self._spawn(server)
        self._await(server, keep_port=True)

    def add_node(self, name: str, *settings: str, conf: str | None = None) -> int:
        """Start one more node and return its port.

        Args:
            name: What it is called.
            settings: What it is given on its command line.
            conf: The text of a file that it may rewrite, as a sentinel does.
        """
        self._add_node(name, settings, conf)
        self._spawn(self._servers[name])
        self._await(self._servers[name])
        return self._servers[name].port

    def close(self) -> None:
        """End every server and remove their folder; may be called twice."""
        atexit.unregister(self.close)
        for server in self._servers.values():
            if server.process is not None and server.process.poll() is None:
                server.process.send_signal(server.stop_signal)
                server.process.send_signal(signal.SIGCONT)
        for server in self._servers.values():
            self._end(server)
        self._servers.clear()
        if self._reaper.stdin is not None and not self._reaper.stdin.closed:
            self._reaper.stdin.close()
        self._reaper.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Starting

    def _add_node(
        self, name: str, settings: Sequence[str], conf: str | None = None, server: Path | None = None
    ) -> None:
        folder = self.folder / name
        folder.mkdir()
        binary: list[str | Path] = [server or valkey_server()]
        if conf is not None:
            (folder / "node.conf").write_text(conf)
            binary.append(folder / "node.conf")
        self._servers[name] = _Server(
            name,
            lambda port: [*binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder, *settings],
            _answers_ping,
            signal.SIGKILL,
        )

    def _add_postgres(self, settings: Mapping[str, str]) -> None:
        user = _unprivileged_user()
        binaries = postgres_folder()
        data, sockets = self.folder / "pg", self.folder / "s"
        for made in (data, sockets):
            made.mkdir(mode=0o700)
            if user is not None:
                os.chown(made, user.pw_uid, user.pw_gid)
        if user is not None and not _can_run(binaries / "postgres", user):
            binaries = self._staged(binaries)
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        made_by = [
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
            "--no-instructions",
        ]
        initdb = subprocess.run(
            [binaries / "initdb", "-D", data, *made_by],
            check=False,
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            **_as(user),
        )
        if initdb.returncode:
            message = f"initdb failed:\n{initdb.stdout}{initdb.stderr}"
            raise ServiceError(message)
        settings = {**_POSTGRES_SETTINGS, **settings, "unix_socket_directories": str(sockets)}
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._servers["postgres"] = _Server(
            "postgres",
            lambda port: [binaries / "postgres", "-D", data, "-p", str(port), *given],
            lambda server: _takes_connections(server, data),
            signal.SIGQUIT,  # at once, but releasing its shared memory
            user,
            environment,
        )

    def _staged(self, binaries: Path) -> Path:
        """Copy Postgres to where its user may run it: a virtual environment can be under a closed home."""
        top = binaries.parents[2]
        for part in (binaries.parent.relative_to(top), Path(f"{binaries.parents[1].name}.libs")):
            if (top / part).is_dir():
                shutil.copytree(
                    top / part,
                    self.folder / "software" / part,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("include", "*.a", "pgxs"),
                )
        return self.folder / "software" / binaries.relative_to(top)

    def _spawn(self, server: _Server) -> None:
        server.port = server.port or _free_port()
        with (self.folder / f"{server.name}.log").open("ab") as log:
            server.process = subprocess.Popen(
                server.command(server.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with(os.getpid(), server.stop_signal),  # noqa: PLW1509  # it only makes a system call
                env=server.environment,
                cwd="/",
                **_as(server.user),
            )
        if self._reaper.stdin is not None:
            self._reaper.stdin.write(b"%d %d\n" % (server.process.pid, server.stop_signal))
            self._reaper.stdin.flush()

    def _await(self, server: _Server, *, keep_port: bool = False) -> None:
        """Wait until a server takes connections; where its port was taken, try another."""
        end = time.monotonic() + START_SECONDS
        tries = START_TRIES
        while not server.is_ready(server):
            process, is_late = self._process(server.name), time.monotonic() > end
            is_taken = process.poll() is not None and "in use" in self._log(server)
            if is_taken and not is_late and (keep_port or tries):
                tries -= 1
                server.port = server.port if keep_port else 0
                time.sleep(0.2)
                self._spawn(server)
            elif process.poll() is not None or is_late:
                message = f"{server.name} did not start ({process.returncode}):\n{self._log(server)[-2000:]}"
                raise ServiceError(message)
            time.sleep(0.01)

    def _end(self, server: _Server) -> None:
        if server.process is None:
            return
        if server.process.poll() is None:
            server.process.send_signal(server.stop_signal)
        try:
            server.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()

    def _log(self, server: _Server) -> str:
        return (self.folder / f"{server.name}.log").read_text(errors="replace")

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        server = self._servers.get(name)
        if server is None or server.process is None:
            message = f"no service {name!r}; there are {', '.join(self._servers)}"
            raise KeyError(message)
        return server.process

    def _node_url(self, name: str) -> str:
        return f"redis://127.0.0.1:{self._servers[name].port}/0"


def _letters(number: int) -> str:
    """Return a for 0, z for 25, aa for 26, and so on."""
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("a") + last)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return who Postgres runs as: it refuses root; None if we are not root."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _can_run(binary: Path, user: pwd.struct_passwd) -> bool:
    try:
        subprocess.run([binary, "-V"], check=True, stdout=subprocess.DEVNULL, cwd="/", **_as(user))
    except PermissionError:
        return False
    return True


def _answers_ping(server: _Server) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", server.port), 0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def _takes_connections(server: _Server, data: Path) -> bool:
    """Return whether Postgres' pid file is this process' (line 1) and says so (line 8)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return (
            server.process is not None and lines[0] == str(server.process.pid) and lines[7].strip() == "ready"
        )
    except (OSError, IndexError):
        return False
