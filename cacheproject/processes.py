"""Starts what a command needs: services that the environment does not name, a worker, the site."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NoReturn

import django

from cachebackend.testing.embedded import die_with
from cacheproject.services import Services

__all__ = [
    "MANAGE",
    "call_after_setup",
    "celery_worker",
    "free_port",
    "interrupt_on_signals",
    "missing_broker",
    "missing_services",
    "run_with_services",
    "site",
    "wait_for_interrupt",
    "worker_command",
]

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
STOP_SECONDS = 30
POLL_SECONDS = 0.2


def missing_services(ring: int | Literal["cluster"] = 3) -> dict[str, Any]:
    """Return the arguments of ``Services`` that start what the environment does not name.

    Args:
        ring: The number of ring nodes, or that they are a cluster.
    """
    arguments: dict[str, Any] = {}
    for variable, name, count in (("RING_NODES", "ring", ring), ("WRITE_BEHIND_NODES", "queue", 1)):
        arguments[name] = 0 if os.environ.get(variable) else count
    arguments["postgres"] = not os.environ.get("DATABASE_URL")
    return arguments


def missing_broker() -> str | None:
    """Return an error message if the environment names the queue but not its broker; else None."""
    if os.environ.get("WRITE_BEHIND_NODES") and not os.environ.get("CELERY_BROKER_URL"):
        return "WRITE_BEHIND_NODES is set but CELERY_BROKER_URL is not; set both, or neither"
    return None


def interrupt_on_signals() -> None:
    """Make SIGTERM, and a terminal that hangs up, end the command like Ctrl-C does.

    SIGINT is set too, because a shell makes commands that it starts in the background ignore it.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def wait_for_interrupt() -> NoReturn:
    """Wait for KeyboardInterrupt. ``signal.pause`` would miss one that comes just before it."""
    while True:
        time.sleep(POLL_SECONDS)


def run_with_services(arguments: Sequence[str], services: Mapping[str, Any]) -> int:
    """Run a management command again, with services started for it; return its exit code.

    In a new process, because Django has read the settings by the time a command runs.

    Args:
        arguments: The arguments of the command.
        services: The arguments of ``Services``.
    """
    with Services(**services) as started:
        named = {name: value for name, value in started.env().items() if not os.environ.get(name)}
        child = subprocess.Popen(
            [sys.executable, MANAGE, *arguments],
            env=os.environ | named,
            preexec_fn=die_with(os.getpid(), signal.SIGTERM),  # noqa: PLW1509  # it only makes a system call
        )
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the child got the signal too, and prints its last lines before it ends


def call_after_setup(name: str, *arguments: Any) -> None:
    """Set Django up, then call a function by its dotted name. A spawned child starts with this."""
    django.setup()
    module, _, function = name.rpartition(".")
    getattr(import_module(module), function)(*arguments)


@contextlib.contextmanager
def celery_worker(processes: int = 2) -> Iterator[subprocess.Popen[bytes]]:
    """Run Celery for the length of a block: two workers, each with its own queues.

    The block gets the worker for drains and the site's tasks. The other one runs the periodic tasks, with
    beat, which stores its schedule in memory.
    """
    periodic = [*worker_command("periodic", 1), "-B", "--scheduler", "celery.beat.Scheduler"]
    with _running(worker_command("celery,drains", processes)) as worker, _running(periodic):
        yield worker


def worker_command(queues: str, processes: int) -> list[str]:
    """Return the command of a worker that serves some queues."""
    options = ["-Q", queues, "-n", f"{queues.replace(',', '-')}@%h", "-c", str(processes), "-l", "warning"]
    command = ["-m", "celery", "--quiet", "-A", "cacheproject", "worker", *options]
    return [sys.executable, *command, "--without-gossip", "--without-mingle"]


@contextlib.contextmanager
def site(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the project on the loopback address for the length of a block."""
    command = [sys.executable, str(MANAGE), "runserver", "--noreload", f"127.0.0.1:{port}"]
    with _running(command, quiet=True) as server:
        yield server


def free_port(preferred: int) -> int:
    """Return a free port: the preferred one if it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            bound: int = probe.getsockname()[1]
            return bound
    message = "no free port"
    raise OSError(message)


@contextlib.contextmanager
def _running(command: Sequence[str], *, quiet: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child in its own session, so that only this process gets Ctrl-C; end it with the block."""
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
