"""The audit trail of commands: who ran which one, with which arguments, and how it ended."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from typing import Any

from cachebackend.interrupts import raise_interrupt
from cachebackend.monitoring.events import record_event

__all__ = ["command_text", "operator", "record_command"]

#: The options that every command of Django has, and those that only change what is printed.
_UNRECORDED = frozenset(
    {
        "action",
        "verbosity",
        "settings",
        "pythonpath",
        "traceback",
        "no_color",
        "force_color",
        "skip_checks",
        "json",
        "stdout",
        "stderr",
    }
)
#: Stands for a value that may hold a password, such as a URL.
_HIDDEN = "…"


def operator() -> str:
    """Return the user of the operating system, the user before ``sudo``, and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError) as error:  # a container may have no name for it
        raise_interrupt(error)
        user = str(os.getuid())
    before = os.environ.get("SUDO_USER")
    return f"{user}{f' ({before})' if before and before != user else ''} on {socket.gethostname()}"


def command_text(name: str, options: Mapping[str, Any]) -> str:
    """Return a command as text: its action and the arguments that it was given, without secrets."""
    given = [
        f"{key}={_text(value)}"
        for key, value in sorted(options.items())
        if key not in _UNRECORDED and value not in (None, False, [])
    ]
    return " ".join(["manage.py", name, str(options["action"]), *given])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, tuple):  # the alias of a database or None, and a number
        return ":".join(_text(part) for part in value if part is not None)
    return _HIDDEN if "://" in str(value) or "@" in str(value) else str(value)


def record_command(name: str, options: Mapping[str, Any], outcome: str) -> None:
    """Store in the timeline that a command ran. Never raises."""
    record_event("command", operator(), f"{command_text(name, options)}: {outcome}")
