"""The exception of a signal handler is told from other errors."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import pytest

from cachebackend.errors import InterruptLostError
from cachebackend.interrupts import note_interrupt, raise_interrupt


class SoftLimitError(Exception):
    """What the handlers raise: an Exception, as Celery's SoftTimeLimitExceeded."""


def handle(_: int, __: FrameType | None) -> None:
    raise SoftLimitError


def handle_by_another_function(*arguments: Any) -> None:
    handle(*arguments)


def handle_once(number: int, frame: FrameType | None, *, error: type[Exception] = SoftLimitError) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise error


def handle_and_delete(number: int, frame: FrameType | None) -> None:
    del number, frame  # pylint's idiom for arguments that are not used
    raise SoftLimitError


def handle_and_rebind(number: int, frame: FrameType | None) -> None:
    frame = None
    raise SoftLimitError(number, frame)


def handle_and_rebind_all(*arguments: Any) -> None:
    arguments = arguments[:1]
    raise SoftLimitError(*arguments)


class Limit:
    """An object with handlers."""

    def handle(self, _: int, __: FrameType | None) -> None:
        raise SoftLimitError

    def __call__(self, _: int, __: FrameType | None) -> None:
        raise SoftLimitError


@pytest.fixture
def set_handler() -> Iterator[Callable[[Any], None]]:
    """Sets the handler of SIGUSR1 for a test."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler) and None
    signal.signal(signal.SIGUSR1, before)


def interrupted() -> Exception:
    """Return what the handler raises in code that it interrupts."""
    try:
        signal.raise_signal(signal.SIGUSR1)
    except SoftLimitError as error:
        return error
    pytest.fail("the handler has not raised")


class DeletingLimit:
    """An object that is a handler and deletes its arguments."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        raise SoftLimitError


HANDLERS = {
    "function": handle,
    "calls another": handle_by_another_function,
    "removes itself": handle_once,
    "method": Limit().handle,
    "object": Limit(),
    "partial": partial(handle),
    "deletes": handle_and_delete,
    "rebinds": handle_and_rebind,
    "rebinds all": handle_and_rebind_all,
    "deleting object": DeletingLimit(),
    "partial of a method that deletes": partial(partial(DeletingLimit().__call__)),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_the_exception_of_a_handler_is_raised_again(handler: Any, set_handler: Callable[[Any], None]) -> None:
    """The handler may be any kind of callable."""
    set_handler(handler)
    with pytest.raises(SoftLimitError):
        raise_interrupt(interrupted())


def test_another_error_is_not_raised(set_handler: Callable[[Any], None]) -> None:
    """Even of the same class, and although there is a handler."""
    set_handler(handle)
    try:
        raise SoftLimitError  # its traceback is what counts
    except SoftLimitError as error:
        raise_interrupt(error)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper, as the decorators of a project do: all of them have the same code."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return wrapper


class Decorated:
    """A decorator whose wrappers are objects of one class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


@contextmanager
def scope() -> Iterator[None]:
    yield


def deleting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper whose arguments are gone when the function raises."""

    def wrapper(*arguments: Any) -> Any:
        first = arguments[0]
        del arguments
        return function(first)

    return wrapper


def fail(*_: Any) -> None:
    raise SoftLimitError


DECORATORS = {
    "wraps": decorated,
    "object": Decorated,
    "context manager": scope(),
    "deletes its arguments": deleting,
    "method": lambda function: Decorated(function).__call__,
}


@pytest.mark.parametrize("decorator", DECORATORS.values(), ids=DECORATORS)
def test_a_decorator_may_be_on_handlers_and_on_other_functions(
    decorator: Any, set_handler: Callable[[Any], None]
) -> None:
    """The error of another function is none of the handler's; that of the handler is."""
    set_handler(decorator(fail))
    try:
        decorator(lambda *_: fail())("an argument")
    except SoftLimitError as error:
        raise_interrupt(error)
    with pytest.raises(SoftLimitError):
        raise_interrupt(interrupted())


def test_a_function_may_get_the_frame_of_its_caller(set_handler: Callable[[Any], None]) -> None:
    """Loggers do so; it is called with no number of a signal."""
    set_handler(handle)

    def report(_: str, __: FrameType, ___: FrameType) -> None:
        raise SoftLimitError

    try:
        report("a message", sys._getframe(), sys._getframe())
    except SoftLimitError as error:
        raise_interrupt(error)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, print, partial(print), object().__eq__])
def test_a_handler_without_python_code_is_none_of_the_frames(
    handler: Any, set_handler: Callable[[Any], None]
) -> None:
    """No frame is that of a handler in C; an error is not taken for its exception."""
    set_handler(handler)
    try:
        raise SoftLimitError
    except SoftLimitError as error:
        raise_interrupt(error)


def test_a_note_outlives_the_traceback(set_handler: Callable[[Any], None]) -> None:
    """An error of a handshake loses its frames, which hold the password."""
    set_handler(handle)
    error = interrupted()
    note_interrupt(error)
    with pytest.raises(SoftLimitError):
        raise_interrupt(error.with_traceback(None))


def test_a_lost_exception_is_raised_as_one_of_ours() -> None:
    """Which one it was is not known."""
    with pytest.raises(InterruptLostError):
        raise_interrupt(InterruptLostError())
