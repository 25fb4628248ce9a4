"""Starts what a command needs beside itself: services the environment does not name, worker, site."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import django

from cachebackend.testing.embedded import die_with
from cacheproject.services import Services

__all__ = [
    "MANAGE",
    "call_after_setup",
    "celery_worker",
    "end_by_interrupt",
    "free_port",
    "missing_broker",
    "run_with_services",
    "site",
    "unnamed_services",
    "wait_for_interrupt",
]

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
STOP_SECONDS = 30
LOOK_SECONDS = 0.2


def unnamed_services() -> dict[str, Any]:
    """Return what of the services the environment does not name, as arguments of ``Services``."""
    wanted: dict[str, Any] = {}
    for variable, name, count in (("RING_NODES", "ring", 3), ("WRITE_BEHIND_NODES", "queue", 1)):
        wanted[name] = 0 if os.environ.get(variable) else count
    wanted["postgres"] = not os.environ.get("DATABASE_URL")
    return wanted


def missing_broker() -> str | None:
    """Return what to say if the environment names the queue but not the broker that goes with it."""
    if os.environ.get("WRITE_BEHIND_NODES") and not os.environ.get("CELERY_BROKER_URL"):
        return "WRITE_BEHIND_NODES is named but CELERY_BROKER_URL is not; name both, or neither"
    return None


def end_by_interrupt() -> None:
    """Have a request to end, or a terminal that hangs up, end the command as Ctrl-C does.

    Ctrl-C too: what a shell starts in the background is deaf to it else.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def wait_for_interrupt() -> NoReturn:
    """Wait for KeyboardInterrupt; ``signal.pause`` would sleep through one that came just before."""
    while True:
        time.sleep(LOOK_SECONDS)


def run_with_services(arguments: Sequence[str]) -> int:
    """Run a management command anew, on services started for it; return its exit code.

    A new process, because Django has read the settings by the time a command runs.
    """
    with Services(**unnamed_services()) as services:
        child = subprocess.Popen(
            [sys.executable, MANAGE, *arguments],
            env=services.env() | os.environ,
            preexec_fn=die_with(os.getpid(), signal.SIGTERM),  # noqa: PLW1509  # it only makes a system call
        )
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # it was asked too, and says what it has to say before it ends


def call_after_setup(name: str, *arguments: Any) -> None:
    """Set Django up, then call a function by its dotted name: what a spawned child begins with."""
    django.setup()
    module, _, function = name.rpartition(".")
    getattr(import_module(module), function)(*arguments)


@contextlib.contextmanager
def celery_worker(processes: int = 2) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Celery worker with beat for the length of a block; beat keeps its times in memory."""
    command = [
        "-m",
        "celery",
        "--quiet",
        "-A",
        "cacheproject",
        "worker",
        "-c",
        str(processes),
        "-l",
        "warning",
    ]
    command += ["-B", "--scheduler", "celery.beat.Scheduler", "--without-gossip", "--without-mingle"]
    with _running([sys.executable, *command]) as worker:
        yield worker


@contextlib.contextmanager
def site(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the project on the loopback address for the length of a block."""
    command = [sys.executable, str(MANAGE), "runserver", "--noreload", f"127.0.0.1:{port}"]
    with _running(command, quiet=True) as server:
        yield server


def free_port(wanted: int) -> int:
    """Return a port, the wanted one if it is free."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    message = "no free port"
    raise OSError(message)


@contextlib.contextmanager
def _running(command: Sequence[str], *, quiet: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child of its own session, so that Ctrl-C reaches it only through us; end it with the block."""
    output = subprocess.DEVNULL if quiet else sys.stderr.fileno()
    child = subprocess.Popen(
        command,
        cwd=MANAGE.parent,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
