"""Distinguishes the exception of a signal handler from an error of the code that it interrupted.

A signal handler may raise any error anywhere: Celery's SoftTimeLimitExceeded, or the TimeoutError of a
project's own limit. An ``except`` that is meant for errors of the code that was interrupted, such as a
connection, a router or the class of a pickled value, would catch it too, and the limit would have no
effect. So every ``except`` of Exception, OSError or another builtin class calls ``raise_interrupt`` first.

A handler is recognized by its frame in the traceback: it has the code of a handler that is registered, or
an argument is the frame that it interrupts. Some exceptions have no such frame and cannot be distinguished,
unless their class derives from BaseException only: those of a handler without Python code, of a handler
that registers another one and deletes its arguments before it raises, and those that another thread sets
by ``PyThreadState_SetAsyncExc``.
"""

from __future__ import annotations

import signal
from functools import partial
from inspect import CO_VARARGS
from pathlib import Path
from types import CodeType, FrameType

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
    codes: set[CodeType | None] = set()
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            if _has_its_caller(traceback.tb_frame):
                return True
            codes.add(code)
        traceback = traceback.tb_next
    # Asking for all handlers takes much longer than the rest
    return bool(codes) and not codes.isdisjoint(_codes_of_handlers())


def _codes_of_handlers() -> set[CodeType | None]:
    """Return the code of each signal handler that is registered now."""
    return {_code(handler) for handler in map(signal.getsignal, _SIGNALS) if callable(handler)}


def _code(handler: object) -> CodeType | None:
    """Return the code of a function, a method, an object with ``__call__``, or a partial of these."""
    for _ in range(_MAX_WRAPPERS):
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            return code
        handler = handler.func if isinstance(handler, partial) else type(handler).__dict__.get("__call__")
    return None


def _has_its_caller(frame: FrameType) -> bool:
    """Return whether an argument of a frame is its caller, as in the frame of a handler.

    The registered handlers are not enough: a handler may register another one before it raises.
    """
    code, caller = frame.f_code, frame.f_back
    is_variadic = bool(code.co_flags & CO_VARARGS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + is_variadic]
    if caller is None or len(names) < (1 if is_variadic else 2):
        return False
    arguments = [frame.f_locals.get(name) for name in names]
    more = arguments.pop() if is_variadic else ()
    return any(argument is caller for argument in (*arguments, *(more or ())))
