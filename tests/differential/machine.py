"""Runs a script of steps on a family of models, and compares the ring with the database after each.

Three threads take part, each with its own connections, and one of them runs at a time:

- the writer runs the script;
- a second writer runs the blocks ``other thread``;
- an observer is never in a transaction, and reads while one is open.

After a step the thread that ran it reads everything, and inside a transaction so does the
observer. A block ``slow reader`` starts a read that waits between its query and its fill while the
steps of the block run. A block ``with comments`` changes the text of every statement.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from django.core.cache import cache
from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, connections, router, transaction

import tests.differential.writes  # noqa: F401  # it registers all kinds
from tests.differential.kinds import KINDS
from tests.differential.off import is_off
from tests.differential.reads import cache_aside, differences, forget_cache_aside, is_cached, slow_reads
from tests.differential.targets import Step, Target, World
from tests.zoo.models import FAMILIES

__all__ = ["BLOCKS", "ENDINGS", "Block", "Item", "Machine", "Script"]

T = TypeVar("T")
#: Ways to run several steps together.
BLOCKS = (
    "atomic",
    "atomic without savepoint",
    "durable",
    "repeatable read",
    "serializable",
    "on_commit",
    "other thread",
    "slow reader",
    "with comments",
)
#: How a transaction ends.
ENDINGS = ("commit", "error", "set_rollback")
#: Isolation levels, by block.
_ISOLATION = {"repeatable read": "REPEATABLE READ", "serializable": "SERIALIZABLE"}


@dataclass(frozen=True)
class Block:
    """Steps that run together.

    Attributes:
        kind: One of ``BLOCKS``.
        ending: One of ``ENDINGS``, for a transaction.
        steps: The steps, and blocks.
        read: What a slow reader reads: the number of one of the models, and of one of its reads.
    """

    kind: str
    ending: str
    steps: tuple[Item, ...]
    read: tuple[int, int] = (0, 0)


Item: TypeAlias = "Step | Block"
Script: TypeAlias = Sequence[Item]


class UndoError(Exception):
    """Rolls a transaction back."""


#: What a step may raise: the database refuses it, or there is no such row.
EXPECTED = (DatabaseError, ObjectDoesNotExist, UndoError)


class Thread:
    """A thread that runs one function at a time, and keeps its connections in between."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    def start(self, function: Callable[[], T]) -> Any:
        """Start a function; return its future."""
        return self._executor.submit(function)

    def run(self, function: Callable[[], T]) -> T:
        """Run a function, and return its result."""
        return self._executor.submit(function).result()

    def close(self) -> None:
        """Close the connections, and end the thread."""
        self.run(connections.close_all)
        self._executor.shutdown()


@dataclass
class Threads:
    """The threads beside the one that runs the script."""

    second: Thread = field(default_factory=lambda: Thread("second"))
    observer: Thread = field(default_factory=lambda: Thread("observer"))
    reader: Thread = field(default_factory=lambda: Thread("reader"))

    def close(self) -> None:
        """End all of them."""
        for thread in (self.second, self.observer, self.reader):
            thread.close()


class Machine:
    """Runs one script.

    Args:
        family: The name of the family of models.
        threads: The threads, which many machines use one after another.
        is_async: Whether rows are read by the async methods.
        forgets: Whether the ring is emptied before each read, so that a wrong answer is the machine's fault.

    Attributes:
        found: A line for each answer that was wrong, and each error that was not expected.
    """

    def __init__(
        self, family: str, threads: Threads, *, is_async: bool = False, forgets: bool = False
    ) -> None:
        self.family = FAMILIES[family]
        self.found: list[str] = []
        self._threads = threads
        self._is_async = is_async
        self._forgets = forgets
        self._world = World()
        self._using = router.db_for_write(self.family[0])
        #: How many threads have a transaction open, and how many reads wait.
        self._open = self._waiting = 0
        #: Whether the snapshot of an open transaction is older than another thread's commit.
        self._is_snapshot_old = False
        self._home = threading.current_thread()

    def run(self, script: Script) -> list[str]:
        """Run the script; return what was wrong, and stop at the first step after which something was."""
        self._compare("before the first step")
        for item in script:
            if self.found:
                return self.found
            self._run(item)
        self._compare("at the end")
        return self.found

    def _run(self, item: Item) -> None:
        """Run a step or block, and compare. An error that a plain project expects too passes on."""
        try:
            if isinstance(item, Block):
                self._run_block(item)
            else:
                KINDS[item.kind](Target(item, self._world))
        except EXPECTED:
            if connections[self._using].in_atomic_block:
                raise
        except Exception as error:  # noqa: BLE001  # every error is reported with the script
            self.found.append(f"{item} raised {error!r}\n{traceback.format_exc(limit=-8)}")
            return
        self._compare(f"after {item}")

    def _run_all(self, steps: Sequence[Item]) -> None:
        for item in steps:
            if not self.found:
                self._run(item)

    # Blocks

    def _run_block(self, block: Block) -> None:
        match block.kind:
            case "other thread":
                self._run_in_other_thread(block.steps)
            case "slow reader":
                self._beside_slow_reader(block)
            case "with comments":
                with connections[self._using].execute_wrapper(_add_comment):
                    self._run_all(block.steps)
            case "on_commit":
                transaction.on_commit(lambda: self._run_all(block.steps), using=self._using)
            case _:
                self._in_transaction(block)

    def _run_in_other_thread(self, steps: Sequence[Item]) -> None:
        if threading.current_thread() is not self._home:
            self._run_all(steps)
            return
        self._is_snapshot_old = True
        self._threads.second.run(lambda: self._run_without_waiting(steps))

    def _run_without_waiting(self, steps: Sequence[Item]) -> None:
        """Run steps of the second writer: a row that the first writer has locked is an error at once."""
        connection = connections[self._using]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '20ms'")
        self._run_all(steps)

    def _in_transaction(self, block: Block) -> None:
        connection = connections[self._using]
        is_outermost = not connection.in_atomic_block
        durable = block.kind == "durable" and is_outermost
        savepoint = block.kind != "atomic without savepoint"
        self._open += is_outermost
        try:
            with transaction.atomic(self._using, savepoint=savepoint, durable=durable):
                if is_outermost and block.kind in _ISOLATION and connection.vendor == "postgresql":
                    self._is_snapshot_old = False
                    with connection.cursor() as cursor:
                        cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {_ISOLATION[block.kind]}")
                self._run_all(block.steps)
                if block.ending == "set_rollback":
                    transaction.set_rollback(True, using=self._using)
                if block.ending == "error":
                    raise UndoError
        except EXPECTED:
            # An inner block without a savepoint has spoiled the outer one, which must end too
            if not is_outermost and not savepoint:
                raise
        finally:
            self._open -= is_outermost

    def _beside_slow_reader(self, block: Block) -> None:
        if self._waiting:
            self._run_all(block.steps)
            return
        cache.clear()  # so that the read misses, and waits with its lease
        gate = Gate()
        reading = self._threads.reader.start(lambda: self._read_slowly(block.read, gate))
        gate.wait_for_reader(reading)
        self._waiting += 1
        try:
            self._run_all(block.steps)
        finally:
            self._waiting -= 1
            gate.open()
            reading.result()

    def _read_slowly(self, choice: tuple[int, int], gate: Gate) -> None:
        cached = [model for model in self.family if is_cached(model)]
        reads = slow_reads(cached[choice[0] % len(cached)])
        with connections[self._using].execute_wrapper(gate):
            reads[choice[1] % len(reads)]()
        cache.close()

    # Comparing

    def _compare(self, when: str) -> None:
        if self.found or self._waiting:
            return
        connection = connections[self._using]
        in_transaction = connection.in_atomic_block
        if not in_transaction:
            forget_cache_aside(self.family)
        is_current = not (self._has_snapshot() and self._is_snapshot_old)
        if not connection.needs_rollback and is_current:
            own = self._read(checks_aside=not in_transaction)
            self.found += [f"{when}: {line}" for line in own]
        if self._open:
            seen = self._threads.observer.run(lambda: self._read(checks_aside=True))
            self.found += [f"{when}, seen by another thread: {line}" for line in seen]

    def _has_snapshot(self) -> bool:
        connection = connections[self._using]
        in_transaction = connection.in_atomic_block and not connection.needs_rollback
        if not in_transaction or connection.vendor != "postgresql":
            return False
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('transaction_isolation')")
            return bool(cursor.fetchone()[0] != "read committed")

    def _read(self, *, checks_aside: bool) -> list[str]:
        if self._forgets:
            cache.clear()
        try:
            lines = differences(self.family, is_async=self._is_async)
            may_be_aside = checks_aside or not is_off("cache-aside in a transaction")
            aside = cache_aside(self.family) if may_be_aside else []
        except Exception as error:  # noqa: BLE001  # every error is reported with the script
            return [f"a read raised {error!r}\n{traceback.format_exc(limit=-8)}"]
        finally:
            cache.close()
        return lines + aside if checks_aside else lines


def _add_comment(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
    """Change the text of every statement, as packages for logging and tracing do."""
    return execute(f"/* a step */ {sql}", *rest)


class Gate:
    """Lets a reader's first query run, and holds the reader until the gate is opened."""

    def __init__(self) -> None:
        self.is_held = threading.Event()
        self.is_open = threading.Event()

    def __call__(self, execute: Callable[..., Any], *args: Any) -> Any:
        result = execute(*args)
        self.is_held.set()
        self.is_open.wait()
        return result

    def wait_for_reader(self, reading: Any) -> None:
        """Return once the reader is held, or has ended without a query."""
        reading.add_done_callback(lambda _: self.is_held.set())
        self.is_held.wait()

    def open(self) -> None:
        """Let the reader continue."""
        self.is_open.set()


@contextlib.contextmanager
def threads() -> Iterator[Threads]:
    """Give a block the threads, and end them."""
    found = Threads()
    try:
        yield found
    finally:
        found.close()
