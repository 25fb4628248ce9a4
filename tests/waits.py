"""Waiting in tests for what another thread or process does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cachebackend.protocol.cache import lease as leases
from cachebackend.protocol.context import Context

__all__ = ["wait_for_threads", "wait_until", "whole_leases"]


def wait_until(condition: Callable[[], Any]) -> None:
    """Return when a condition is true; another thread or a server makes it true."""
    deadline, done = time.monotonic() + 30, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        done.wait(0.002)


def wait_for_threads(prefix: str) -> None:
    """Return when no thread runs whose name begins so."""
    wait_until(lambda: not any(each.name.startswith(prefix) for each in threading.enumerate()))


def whole_leases(patch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that gets each lease that a caller waits for until it should have expired."""
    found: list[bytes] = []
    note_lease = leases._note_lease

    def note(context: Context, request: leases.LeaseRequest, other: bytes) -> float:
        now = note_lease(context, request, other)
        if now - request.waiting_since >= context.options.lease_timeout:
            found.append(other)
        return now

    patch.setattr(leases, "_note_lease", note)
    return found
