"""Distinguishes the exception of a signal handler from an error of the code that it interrupted.

A signal handler may raise any error anywhere: Celery's SoftTimeLimitExceeded, or the TimeoutError of a
project's own limit. An ``except`` that is meant for errors of the code that was interrupted, such as a
connection, a router or the class of a pickled value, would catch it too, and the limit would have no
effect. So every ``except`` of Exception, OSError or another builtin class calls ``raise_interrupt`` first.

A handler is recognized by its frame in the traceback. Python calls it with the number of the signal and
the frame that it interrupts, which is the frame below its own; no other function is called so. If the handler
has deleted or rebound these arguments, its frame is known by the function that is registered: by its code,
the variables that it closes over, and its object. The code alone is not enough, because all functions with
one decorator share the code of its wrapper.

Some exceptions have no such frame and cannot be distinguished, unless their class derives from BaseException
only: those of a handler without Python code, of a handler that registers another one and deletes its
arguments before it raises, and those that another thread sets by ``PyThreadState_SetAsyncExc``.
"""

from __future__ import annotations

import signal
from functools import partial
from inspect import CO_VARARGS
from itertools import pairwise
from pathlib import Path
from types import FrameType, FunctionType, MethodType
from typing import Any, NamedTuple

from cachebackend.errors import InterruptLostError

__all__ = ["note_interrupt", "raise_interrupt"]

#: The attribute of an error that a signal handler is known to have raised.
_NOTE = "_ringcache_interrupt"
#: No handler is in this package.
_PACKAGE = f"{Path(__file__).parent}/"
_SIGNALS = tuple(signal.valid_signals())
#: The most objects in which a handler's function may be wrapped, such as partials.
_MAX_WRAPPERS = 8


def raise_interrupt(error: BaseException) -> None:
    """Raise an error again if a signal handler raised it."""
    if _is_interrupt(error):
        raise error


def note_interrupt(error: BaseException) -> bool:
    """Return whether a signal handler raised an error; remember it, before its traceback is removed."""
    is_interrupt = _is_interrupt(error)
    if is_interrupt:
        error.__dict__[_NOTE] = True
    return is_interrupt


def _is_interrupt(error: BaseException) -> bool:
    """Return whether a frame of an error's traceback is that of a signal handler."""
    if isinstance(error, InterruptLostError) or _NOTE in error.__dict__:
        return True
    frames: list[FrameType] = []
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            if _is_called_as_handler(frame):
                return True
            frames.append(frame)
        traceback = traceback.tb_next
    if not frames:
        return False
    # Asking for all handlers takes much longer than the rest
    handlers = list(filter(None, map(_function_of, map(signal.getsignal, _SIGNALS))))
    return any(_is_frame_of(frame, handler) for frame in frames for handler in handlers)


def _is_called_as_handler(frame: FrameType) -> bool:
    """Return whether two arguments of a frame are the number of a signal and the frame below."""
    code, below = frame.f_code, frame.f_back
    is_variadic = bool(code.co_flags & CO_VARARGS)
    if below is None or (code.co_argcount < 2 and not is_variadic):
        return False
    variables = frame.f_locals
    arguments = [variables.get(name) for name in code.co_varnames[: code.co_argcount]]
    if is_variadic:
        rest = variables.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        arguments += rest if isinstance(rest, tuple) else ()
    return any(frame is below and _is_signal(number) for number, frame in pairwise(arguments))


def _is_signal(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number in _SIGNALS


class _Handler(NamedTuple):
    """The function of a handler, and the object of which it is a method."""

    function: FunctionType
    owner: object


def _function_of(handler: Any) -> _Handler | None:
    """Return the function of a handler that is a function, a method, an object, or a partial of these."""
    owner = None
    for _ in range(_MAX_WRAPPERS):
        if isinstance(handler, FunctionType):
            return _Handler(handler, owner)
        if isinstance(handler, partial):
            handler = handler.func
        elif isinstance(handler, MethodType):
            owner, handler = handler.__self__, handler.__func__
        else:
            owner, handler = handler, getattr(type(handler), "__call__", None)  # noqa: B004  # not a test
    return None


def _is_frame_of(frame: FrameType, handler: _Handler) -> bool:
    """Return whether a frame is a call of a handler, which other functions may share its code with."""
    function, owner = handler
    code = function.__code__
    if frame.f_code is not code:
        return False
    variables = frame.f_locals
    if owner is not None and code.co_argcount and variables.get(code.co_varnames[0]) is not owner:
        return False
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    return all(variables.get(name) is _content(cell) for name, cell in cells)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return None
