"""The report of a process: what it says about itself, as it is read from a node.

A node may return what another version wrote, or what is damaged or forged. A report without the parts that
are read here, or with a number that is not possible, is left out; text that cannot be shown is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from cachebackend.interrupts import raise_interrupt
from cachebackend.node.breaker import EJECTED
from cachebackend.telemetry.agreed_settings import AgreedSetting

__all__ = ["NodeView", "Process", "read_report"]

_KINDS = frozenset({"web", "worker", "beat", "relay", "command"})
#: Times are in the years 1970 to 5138, and differ by less: what is shown can be a date.
MAX_SECONDS = 1e11
#: The largest process ID that is shown.
MAX_PID = 2**32


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that a process does not use now.

    Attributes:
        alias: The cache alias, or "WRITE_BEHIND".
        node: The node's name.
        state: ``ejected`` or ``replaying``.
        since: When the process ejected it, in seconds since 1970 by the clock of a node; None: not known.
        probe_in: Seconds until the process tries it again; None: not known.
        error: Why.
    """

    alias: str
    node: str
    state: str
    since: float | None = None
    probe_in: float | None = None
    error: str = ""

    @property
    def state_text(self) -> str:
        """The state, in the word that is shown for it everywhere."""
        return "down" if self.state == EJECTED else self.state


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the site, as it reports itself.

    Attributes:
        id: Its id.
        kind: ``web``, ``worker``, ``beat``, ``relay`` or ``command``; several with "+" between them.
        host: The name of its machine or container.
        pid: Its process ID there.
        command: The program that it runs.
        version: The version of django-ringcache.
        started: When it started, in seconds since 1970 by the clock of a node.
        settings: The settings that all processes must have in common.
        views: The nodes that it does not use now.
        clock_ahead: By how many seconds its clock was ahead of the node's when it reported; None: not known.
        age: Seconds since it reported.
        names: For each alias and node of the reader, the name that the process has for the server.
        drains: The partitions that it drains, each with the time since when, by the clock of a node.
        waits: The databases that did not answer it, each with the seconds until it tries it again, and the
            time since when it does not answer, by the clock of a node.
        queues: Celery's queues that it serves, if it is a worker.
        routes: Celery's queue of each task, as the worker knows it.
        app: The name of Celery's app, as ``celery -A`` takes it, if it is a worker or beat.
        broker: The host and port of Celery's broker, if it is a worker or beat.
    """

    id: str
    kind: str
    host: str
    pid: int
    command: str
    version: str
    started: float
    settings: Mapping[str, AgreedSetting]
    views: tuple[NodeView, ...] = ()
    clock_ahead: float | None = None
    age: float = 0.0
    names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    drains: Sequence[tuple[str, float]] = ()
    waits: Sequence[tuple[str, float, float]] = ()
    queues: Sequence[str] = ()
    routes: Mapping[str, str] = field(default_factory=dict)
    app: str = ""
    broker: str = ""

    @property
    def kinds(self) -> frozenset[str]:
        """Its kinds."""
        return frozenset(self.kind.split("+"))

    @property
    def fingerprint(self) -> str:
        """A digest of the settings that all processes must have in common."""
        digests = sorted((path, setting.digest) for path, setting in self.settings.items())
        return blake2b(repr(digests).encode(), digest_size=4).hexdigest()

    @property
    def label(self) -> str:
        """Its kind, host and process ID, for sentences."""
        return f"{self.kind} {self.pid} on {self.host}"


def read_report(
    process: str, report: bytes, at: float, age: float, names: Mapping[tuple[str, str], str]
) -> Process | None:
    """Return a process by its report; None if that cannot be read.

    Args:
        process: The id of the process.
        report: JSON.
        at: When it was stored, in seconds since 1970 by the node's clock.
        age: Seconds since then.
        names: For each alias and node of the reader, the name that the process has for the server.
    """
    try:
        return _process(_text(process), json.loads(report), at, age, names)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise_interrupt(error)
        return None


def _process(
    process: str, data: dict[str, Any], at: float, age: float, names: Mapping[tuple[str, str], str]
) -> Process:
    facts = data.get("facts", {})
    ahead = _seconds(float(data["clock"]) - at)
    pid = int(data["pid"])
    if not 0 <= pid < MAX_PID:
        raise ValueError(pid)
    return Process(
        process,
        _kind(data["kind"]),
        _text(data["host"]),
        pid,
        _text(data["command"]),
        _text(data["version"]),
        _time(data["started"], ahead),
        {_text(path): AgreedSetting(*map(_text, pair)) for path, pair in data["settings"].items()},
        tuple(_view(view, ahead) for view in data.get("views", ())),
        ahead,
        age,
        names,
        [(_text(partition), _time(since, ahead)) for partition, since in facts.get("drains", ())],
        [(_text(using), _seconds(left), _time(at, ahead)) for using, left, at in facts.get("waits", ())],
        [_text(queue) for queue in facts.get("queues", ())],
        {_text(task): _text(queue) for task, queue in facts.get("routes", {}).items()},
        _text(facts.get("app", "")),
        _text(facts.get("broker", "")),
    )


def _view(view: Mapping[str, Any], ahead: float) -> NodeView:
    since, probe_in = view.get("since"), view.get("probe_in")
    return NodeView(
        _text(view["alias"]),
        _text(view["node"]),
        _text(view["state"]),
        None if since is None else _time(since, ahead),
        None if probe_in is None else _seconds(probe_in),
        _text(view.get("error", "")),
    )


def _kind(text: str) -> str:
    return "+".join(kind for kind in text.split("+") if kind in _KINDS) or "command"


def _text(value: object) -> str:
    """Return a value as text that can be encoded: JSON may have lone surrogates."""
    return str(value).encode(errors="replace").decode()


def _time(value: float, ahead: float) -> float:
    """Return a time of the process' clock as one of the node's clock.

    Raises:
        ValueError: It cannot be a date.
    """
    seconds = float(value) - ahead
    if not 0 <= seconds < MAX_SECONDS:  # false for what is not a number, too
        raise ValueError(value)
    return seconds


def _seconds(value: float) -> float:
    """Return a number of seconds.

    Raises:
        ValueError: It is too large, or not a number.
    """
    if not abs(float(value)) < MAX_SECONDS:
        raise ValueError(value)
    return float(value)
