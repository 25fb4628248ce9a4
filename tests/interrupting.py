"""Interrupts an operation by a signal handler that raises, at each place where Python runs handlers.

Python looks for signals when a function begins, after each call, and when a loop begins again: nowhere
else can a handler raise. A trace function sees every instruction, and raises the signal before the
instruction that follows such a place. A place is left out if another ``except`` or ``with`` handles an
exception there than before that instruction.

``INTERRUPT=all`` interrupts at every place, and not only at some of them.

What the handler raises derives by turns from each class that code around it may catch.
"""

from __future__ import annotations

import dis
import opcode
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest
from django.db import IntegrityError, OperationalError

from cachebackend.errors import InterruptLostError

__all__ = [
    "FORGOTTEN_THREADS",
    "LIMITS",
    "Interruption",
    "SoftLimitError",
    "handler",
    "interrupt",
    "interrupted_everywhere",
    "interruptions",
    "raising_handler",
]

#: One in ``STEP`` places of an operation is interrupted, if a test names no other step.
STEP = 11
_EVERYWHERE = os.environ.get("INTERRUPT") == "all"
#: The code that is interrupted: ours, and what of Python and redis-py holds our locks and sockets.
WATCHED = ("/cachebackend/", "/redis/", "/threading.py", "/queue.py")
#: Functions that replace a method of Django. Interrupted when they begin, they have no effect, as the method
#: has none then. This is the one place where callbacks after a commit are lost.
OF_DJANGO = ("set_autocommit_with_deletes", "run_deletes_and_callbacks")
#: Of a test that interrupts code that starts threads. If ``Thread.start`` is interrupted when the thread has
#: just started, Python forgets the thread, which then ends with a KeyError before it runs anything.
FORGOTTEN_THREADS = pytest.mark.filterwarnings(
    "ignore:Exception ignored in thread started by:pytest.PytestUnraisableExceptionWarning"
)
#: How the names of the instructions begin after which Python runs signal handlers.
_CHECKS = ("CALL", "RESUME", "JUMP_BACKWARD")
_SIGNAL = signal.SIGUSR1
_ROOT = f"{Path(__file__).resolve().parents[1]}/"


class SoftLimitError(Exception):
    """What the handler raises: an Exception, as Celery's SoftTimeLimitExceeded."""


def _derived(base: type[Exception]) -> type[SoftLimitError]:
    return type(f"SoftLimit{base.__name__}", (SoftLimitError, base), {})


_CLASSES: list[type[Exception]] = [
    *(TimeoutError, ConnectionError, KeyError, ValueError, TypeError, RuntimeError),
    *(OperationalError, IntegrityError),
]
#: What the handler raises by turns; their number has no common factor with the numbers of the steps.
LIMITS: tuple[type[SoftLimitError], ...] = (SoftLimitError, *map(_derived, _CLASSES))


class Interruption(NamedTuple):
    """Where an operation was interrupted, and whether its caller got the exception."""

    place: str
    has_reached_caller: bool


@contextmanager
def raising_handler() -> Iterator[None]:
    """Return the block in which the signal raises."""

    def handle(_: int, __: FrameType | None) -> None:
        raise _Trace.limit

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
    _Trace.limit = LIMITS[point % len(LIMITS)]
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


def interruptions(operation: Callable[[], object]) -> Iterator[Interruption]:
    """Interrupt an operation at each place, one after the other."""
    _begin(operation)
    for point in count():
        interruption = interrupt(operation, point)
        if interruption is None:
            assert point > 10
            return
        yield interruption


def _begin(operation: Callable[[], object]) -> None:
    """Run an operation: since Python 3.12, only functions that were traced before report instructions."""
    interrupt(operation, sys.maxsize)


@pytest.fixture
def handler() -> Iterator[None]:
    """The signal of the interruptions has a handler that raises."""
    with raising_handler():
        yield


def interrupted_everywhere(
    operation: Callable[[], object],
    check: Callable[[], object],
    step: int = STEP,
    prepare: Callable[[], object] = lambda: None,
) -> list[str]:
    """Interrupt an operation at each place, and check after each.

    Args:
        operation: What to interrupt.
        check: Raises AssertionError if something is wrong afterwards.
        step: One in ``step`` places is interrupted; all of them with ``INTERRUPT=all``.
        prepare: Called before each operation, and not interrupted.

    Returns:
        The places where the interruption did not reach the caller.
    """
    prepare()
    _begin(operation)
    swallowed = []
    for point in count(0, 1 if _EVERYWHERE else step):
        prepare()
        interruption = interrupt(operation, point)
        if interruption is None:
            assert point > 0
            return swallowed
        if not interruption.has_reached_caller:
            swallowed.append(interruption.place)
        try:
            check()
        except AssertionError as error:
            error.add_note(f"interrupted at {interruption.place}")
            raise
    raise AssertionError  # the count does not end


class _Trace:
    """A trace function that raises the signal at a place."""

    #: What the handler raises.
    limit: type[SoftLimitError] = SoftLimitError

    def __init__(self, point: int) -> None:
        self.place: str | None = None
        self._left = point
        #: For each running frame, by its ``id``, the offset of the instruction before.
        self._before: dict[int, int] = {}
        self._codes: dict[CodeType, bytes] = {}

    def begin(self, frame: FrameType, _: str, __: Any) -> Any:
        """Watch a function of the watched code."""
        code = frame.f_code
        if self.place is not None or not any(part in code.co_filename for part in WATCHED):
            return None
        if code not in self._codes:
            self._codes[code] = code.co_code
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "return":
            self._before.pop(id(frame), None)
        elif event == "opcode" and self.place is None and not _is_of_python(frame):
            before = self._before.get(id(frame), frame.f_lasti)
            self._before[id(frame)] = frame.f_lasti
            if self._is_place(frame.f_code, before, frame.f_lasti):
                self._left -= 1
                if self._left < 0:
                    path = frame.f_code.co_filename.rpartition("site-packages/")[2].removeprefix(_ROOT)
                    self.place = f"{path}:{frame.f_lineno} {frame.f_code.co_name} {self.limit.__name__}"
                    signal.raise_signal(_SIGNAL)
        return self._step

    def _is_place(self, code: CodeType, before: int, at: int) -> bool:
        """Return whether Python handles signals after an instruction, as if before the next one."""
        if before == at:
            return code.co_name not in OF_DJANGO  # the function begins
        if not opcode.opname[self._codes[code][before]].startswith(_CHECKS):
            return False
        return _handler_of(code, before) == _handler_of(code, at)


def _is_of_python(frame: FrameType) -> bool:
    """Return whether an instruction has no line, as those by which Python 3.12 throws a generator away.

    Python drops what is raised there.
    """
    return frame.f_lineno is None


def _handler_of(code: CodeType, offset: int) -> int | None:
    """Return where an exception is handled that an instruction raises."""
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    return next((entry.target for entry in reversed(entries) if entry.start <= offset < entry.end), None)
