"""Distinguishes the exception of a signal handler from an error of the code that it interrupted.

Some code of a project may raise any error: a database router, a field, the class of a pickled value.
Where such an error must not reach the caller, ``except Exception`` catches it. That would also catch
what a signal handler raises there, such as Celery's SoftTimeLimitExceeded, and the limit would have no
effect. So every such ``except`` calls ``raise_interrupt`` first.
"""

from __future__ import annotations

from inspect import CO_VARARGS
from threading import Thread
from types import FrameType

from cachebackend.errors import InterruptLostError

__all__ = ["note_interrupt", "raise_interrupt", "start_thread"]

#: The attribute of an error that a signal handler is known to have raised.
_NOTE = "_ringcache_interrupt"


def raise_interrupt(error: BaseException) -> None:
    """Raise an error again if a signal handler raised it."""
    if _is_interrupt(error):
        raise error


def note_interrupt(error: BaseException) -> None:
    """Remember whether a signal handler raised an error, before its traceback is removed."""
    if _is_interrupt(error):
        error.__dict__[_NOTE] = True


def start_thread(thread: Thread) -> None:
    """Start a thread; if a signal handler raises meanwhile, raise its exception.

    Python's own cleanup of an interrupted start may raise another one, such as "release unlocked lock".
    The thread may run or not then.
    """
    try:
        thread.start()
    except (KeyError, RuntimeError) as error:
        if error.__context__ is not None:
            raise_interrupt(error.__context__)
        raise


def _is_interrupt(error: BaseException) -> bool:
    """Return whether a frame of an error's traceback is that of a signal handler."""
    if isinstance(error, InterruptLostError) or _NOTE in error.__dict__:
        return True
    traceback = error.__traceback__
    while traceback is not None and not _is_of_handler(traceback.tb_frame):
        traceback = traceback.tb_next
    return traceback is not None


def _is_of_handler(frame: FrameType) -> bool:
    """Return whether a frame is that of a handler: an argument is the frame that it interrupts, its caller.

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
