"""Interrupts an operation by a signal handler that raises, at each place where Python runs handlers.

Python looks for signals when a function begins, after each call, and when a loop begins again: nowhere
else can a handler raise. A trace function sees every instruction, and raises the signal before the
instruction that follows such a place.
"""

from __future__ import annotations

import opcode
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from cachebackend.errors import InterruptLostError

__all__ = ["Interruption", "SoftLimitError", "interrupt", "raising_handler"]

#: The code that is interrupted: ours, and what of Python and redis-py holds our locks and sockets.
WATCHED = ("/cachebackend/", "/redis/", "/threading.py", "/queue.py")
#: How the names of the instructions begin after which Python runs signal handlers.
_CHECKS = ("CALL", "RESUME", "JUMP_BACKWARD")
_SIGNAL = signal.SIGUSR1
_ROOT = f"{Path(__file__).resolve().parents[1]}/"


class SoftLimitError(Exception):
    """What the handler raises: an Exception, as Celery's SoftTimeLimitExceeded."""


class Interruption(NamedTuple):
    """Where an operation was interrupted, and whether its caller got the exception."""

    place: str
    has_reached_caller: bool


@contextmanager
def raising_handler() -> Iterator[None]:
    """Return the block in which the signal raises."""

    def handle(_: int, __: FrameType | None) -> None:
        raise SoftLimitError

    before = signal.signal(_SIGNAL, handle)
    try:
        yield
    finally:
        signal.signal(_SIGNAL, before)


def interrupt(operation: Callable[[], object], point: int) -> Interruption | None:
    """Run an operation and interrupt it; return None if it has ended before.

    Args:
        operation: What to interrupt.
        point: The number of the place, from 0 on.
    """
    trace = _Trace(point)
    before = sys.gettrace()
    sys.settrace(trace.begin)
    try:
        operation()
    except (SoftLimitError, InterruptLostError):
        has_reached_caller = True
    else:
        has_reached_caller = False
    finally:
        sys.settrace(before)
    return None if trace.place is None else Interruption(trace.place, has_reached_caller)


class _Trace:
    """A trace function that raises the signal at a place."""

    def __init__(self, point: int) -> None:
        self.place: str | None = None
        self._left = point
        #: For each running frame, by its ``id``, the instruction before.
        self._before: dict[int, str] = {}
        self._codes: dict[CodeType, bytes] = {}

    def begin(self, frame: FrameType, _: str, __: Any) -> Any:
        """Watch a function of the watched code."""
        code = frame.f_code
        if self.place is not None or not any(part in code.co_filename for part in WATCHED):
            return None
        if code not in self._codes:
            self._codes[code] = code.co_code
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._before[id(frame)] = "RESUME"
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "return":
            self._before.pop(id(frame), None)
        elif event == "opcode" and self.place is None:
            before = self._before.get(id(frame), "RESUME")
            self._before[id(frame)] = opcode.opname[self._codes[frame.f_code][frame.f_lasti]]
            if before.startswith(_CHECKS):
                self._left -= 1
                if self._left < 0:
                    path = frame.f_code.co_filename.rpartition("site-packages/")[2].removeprefix(_ROOT)
                    self.place = f"{path}:{frame.f_lineno} {frame.f_code.co_name}"
                    signal.raise_signal(_SIGNAL)
        return self._step
