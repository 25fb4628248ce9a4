"""No ``except`` swallows what a signal handler raises, such as Celery's soft time limit."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "cachebackend"
#: What a time limit of a project may raise, and our names for groups of such classes. A class that is meant
#: for one purpose, such as FileNotFoundError, is not one of them.
BROAD = {
    *("Exception", "BaseException", "OSError", "TimeoutError", "ConnectionError", "RuntimeError"),
    *("ValueError", "TypeError", "LookupError", "KeyError", "IndexError", "AttributeError"),
    *("ArithmeticError", "OverflowError", "MemoryError", "AssertionError"),
    *("CONNECTION_ERRORS", "UNREADABLE"),
    # Of Django's databases: a time limit may be a DatabaseError, so that the site's own code retries after it
    *("Error", "DatabaseError", "DataError", "OperationalError", "IntegrityError", "InternalError"),
    *("ProgrammingError", "InterfaceError", "NotSupportedError"),
    *("redis.exceptions.RedisError", "redis.exceptions.ResponseError"),
    # ormsgpack's names for TypeError and ValueError
    *("EncodeError", "msgpack.EncodeError", "ormsgpack.MsgpackEncodeError", "ormsgpack.MsgpackDecodeError"),
}
#: Commands end with what interrupts them, and tests have no time limits in our code.
LEFT_OUT = ("management/", "testing/")
#: The functions that catch such an exception and neither raise it again nor call ``raise_interrupt``.
ALLOWED = {
    "client/replay._run_over": "throws it into the operation",
    "drivers.adrive": "throws it into the operation",
    "drivers.drive": "throws it into the operation",
    "effects.resumed": "throws it into the operation",
    "interrupts._content": "distinguishes interrupts",
    "invalidation/outbox_databases._answer": "``result`` raises it again in the thread that waits",
    "invalidation/outbox_writer._insert": "a thread of its own: signal handlers run in the main thread only",
    "invalidation/outbox_writer._write": "a thread of its own: signal handlers run in the main thread only",
    "node/handshake.perform": "raises the same error without its frames",
    "node/handshake.perform_async": "raises the same error without its frames",
    "node/probed._probe": "a thread of its own: signal handlers run in the main thread only",
    "node/sentinels.primary": "raises the same error without its frames",
    "node/sentinels.primary_async": "raises the same error without its frames",
    "node/tracking._listen": "a thread of its own: signal handlers run in the main thread only",
    "node/tracking._run": "a thread of its own: signal handlers run in the main thread only",
}


def swallowing(source: str) -> Iterator[str]:
    """Yield the name of each function with an ``except`` that may swallow any exception."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (function.name for node in ast.walk(function) if _swallows(node))
            if any(map(_returns_errors, ast.walk(function))) and "raise_interrupt(" not in ast.unparse(
                function
            ):
                yield function.name


def _returns_errors(node: ast.AST) -> bool:
    """Return whether a call catches exceptions and returns them."""
    if not isinstance(node, ast.Call):
        return False
    is_robust = ast.unparse(node.func).endswith("send_robust")
    return is_robust or any(each.arg == "return_exceptions" for each in node.keywords)


def _swallows(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "suppress":
        return any(map(_is_broad, node.args))
    if not isinstance(node, ast.ExceptHandler) or not _is_broad(node.type):
        return False
    raises_again = ast.unparse(node.body[-1]) == "raise" and not any(
        isinstance(each, ast.Return | ast.Continue | ast.Break)
        for statement in node.body
        for each in ast.walk(statement)
    )
    statements = map(ast.unparse, node.body)
    first = next((each for each in statements if not each.endswith("connection.close()")), None)
    return not raises_again and first != f"raise_interrupt({node.name})"


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    if isinstance(caught, ast.Starred):
        return _is_broad(caught.value)
    return caught is None or ast.unparse(caught) in BROAD


def test_no_except_swallows_an_interrupt() -> None:
    """One that catches what a time limit may raise first raises again what a signal handler raised."""
    found = {
        f"{path.relative_to(PACKAGE).with_suffix('')}.{name}"
        for path in PACKAGE.rglob("*.py")
        for name in swallowing(path.read_text())
        if not str(path.relative_to(PACKAGE)).startswith(LEFT_OUT)
    }
    assert found == ALLOWED.keys()


@pytest.mark.parametrize(
    "handler",
    [
        "except Exception:\n  pass",
        "except:\n  pass",
        "except (ValueError, BaseException) as error:\n  raise KeyError from error",
        "except Exception as error:\n  log()\n  raise_interrupt(error)",
        "except Exception:\n  if lost: return\n  raise",
        "except OSError as error:\n  return error",
        "finally:\n  signal.send_robust(None)",
        "except (*CONNECTION_ERRORS, RingCacheError) as error:\n  return error",
        "except DatabaseError:\n  return None",
    ],
)
def test_the_rule_finds_an_except_that_swallows(handler: str) -> None:
    """Also one that logs first, or converts the error."""
    assert list(swallowing(f"def f():\n try:\n  g()\n {handler.replace(chr(10), chr(10) + ' ')}")) == ["f"]
