"""What this process is: its id, its kind, when it started, and what it does now.

kind      a process that
web       has served a request
worker    is a Celery worker, or one of its children
beat      is Celery's beat
relay     is ``manage.py invalidation relay --listen``
command   is none of these: a management command, a shell or a script
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any
from uuid import uuid4

from django.core.signals import request_started

from cachebackend.counters import Counters

__all__ = ["add_facts", "add_kind", "command", "connect", "facts", "host", "kind", "process_id", "started"]

#: The most characters of the command.
MAX_COMMAND = 80
#: The management commands of this package; the first argument of each is an action.
_WITH_ACTIONS = frozenset({"invalidation", "ring", "writebehind"})
_facts: dict[str, Callable[[], Any]] = {}


class _Process:
    """The present process; a forked child is another one."""

    def __init__(self) -> None:
        self.id = uuid4().hex[:16]
        self.started = time.time()
        self.kinds: list[str] = []


_process = _Process()


def process_id() -> str:
    """Return an id that no other process has."""
    return _process.id


def started() -> float:
    """Return when the process started, or loaded this module, in seconds since 1970."""
    return _process.started


def host() -> str:
    """Return the name of the machine or container."""
    return socket.gethostname()


def kind() -> str:
    """Return the kind of the process, several with "+" between them."""
    return "+".join(_process.kinds) or "command"


def command() -> str:
    """Return the name of the program and of the management command, with the action of one of this package.

    Other arguments may be secrets.
    """
    path = PurePath(sys.argv[0] or "python")
    program = path.parent.name if path.name == "__main__.py" else path.name
    shown = 0
    if program in {"manage.py", "django-admin", "django"}:
        shown = 2 if sys.argv[1:2] and sys.argv[1] in _WITH_ACTIONS else 1
    words = [each for each in sys.argv[1 : 1 + shown] if each.isidentifier()]
    return " ".join([program, *words])[:MAX_COMMAND]


def add_kind(name: str) -> None:
    """Record what the process is, and begin to report it."""
    if name not in _process.kinds:
        _process.kinds.append(name)
    if Counters.on_thread is not None:
        Counters.on_thread()


def add_facts(name: str, read: Callable[[], Any]) -> None:
    """Register what else the process reports: a function that returns JSON, and asks nothing."""
    _facts[name] = read


def facts() -> Mapping[str, Any]:
    """Return the registered facts."""
    return {name: read() for name, read in _facts.items()}


def connect() -> None:
    """Record with the first request that the process serves requests."""
    request_started.connect(_on_request, dispatch_uid="cachebackend.this_process")


def _on_request(**_: Any) -> None:
    request_started.disconnect(dispatch_uid="cachebackend.this_process")
    add_kind("web")


def _after_fork() -> None:
    global _process  # noqa: PLW0603  # one for the whole process
    _process = _Process()
    connect()


os.register_at_fork(after_in_child=_after_fork)
