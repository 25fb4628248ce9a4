"""Plays a trace through the whole stack: each block a row, each request a read or a write of it."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from django.db import connection
from django.db.models import F

from cachebackend.management.traces import Trace
from cacheproject.demo.models import Article
from cacheproject.processes import call_after_setup

__all__ = ["SLUG", "ReplayError", "Tally", "make_rows", "play", "replay"]

#: How the slug of a block's row begins; its number follows.
SLUG = "block-"
ROWS_AT_ONCE = 5000
TELL_EVERY = 500


class ReplayError(Exception):
    """A client process of the replay failed."""


@dataclass
class Tally:
    """What a client counted.

    Attributes:
        reads: Requests that read.
        hits: Reads that asked the database nothing.
        misses: Reads that asked it something.
        writes: Requests that wrote; all were acknowledged.
        queries: What the reads asked the database.
        stale_sets_refused: Fills that leases refused.
        views: Writes by the row's primary key.
    """

    reads: int = 0
    hits: int = 0
    misses: int = 0
    writes: int = 0
    queries: int = 0
    stale_sets_refused: int = 0
    views: Counter[int] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add another client's counts to these."""
        self.reads += other.reads
        self.hits += other.hits
        self.misses += other.misses
        self.writes += other.writes
        self.queries += other.queries
        self.stale_sets_refused += other.stale_sets_refused
        self.views.update(other.views)


def make_rows(trace: Trace, tell: Callable[[int], None]) -> dict[int, int]:
    """Make a row for each block, anew; return the rows' primary keys by block number.

    Args:
        trace: The trace.
        tell: Called with how many rows there are, as they are made.
    """
    old = Article.objects.filter(slug__startswith=SLUG)
    old._raw_delete(old.db)  # nothing refers to them: one statement
    keys: dict[int, int] = {}
    for start in range(0, len(trace.names), ROWS_AT_ONCE):
        names = trace.names[start : start + ROWS_AT_ONCE]
        made = Article.objects.bulk_create(
            [Article(slug=f"{SLUG}{name}", title=f"Block {name}", body="x" * 200) for name in names]
        )
        keys.update((name, article.pk) for name, article in zip(names, made, strict=True))
        tell(len(keys))
    return keys


def replay(
    trace: Trace, keys: dict[int, int], processes: int, tell: Callable[[int], None]
) -> tuple[Tally, float]:
    """Play every request, dealt out over so many client processes; return the counts and the seconds.

    Args:
        trace: The requests.
        keys: Primary keys by block number.
        processes: How many clients; with one, this process is the client.
        tell: Called with how many requests are done.

    Raises:
        ReplayError: A client failed.
    """
    if processes == 1:
        begun = time.perf_counter()
        tally = _client(trace, keys, range(len(trace)), tell)
        return tally, time.perf_counter() - begun
    return _with_clients(trace, keys, processes, tell)


def _client(trace: Trace, keys: dict[int, int], share: range, tell: Callable[[int], None]) -> Tally:
    """Play a share of the requests in this process."""
    tally = Tally()

    def count(execute: Callable[..., Any], *arguments: Any) -> Any:
        tally.queries += 1
        return execute(*arguments)

    stats = Article.cached.cache.client.counters
    refused_before = stats.total().stale_sets_refused
    with connection.execute_wrapper(count):
        for done, at in enumerate(share, 1):
            name = trace.names[trace.blocks[at]]
            if trace.writes[at]:
                pk = keys[name]
                Article.behind.update(pk, views=F("views") + 1)
                tally.views[pk] += 1
                tally.writes += 1
            else:
                queries = tally.queries
                Article.cached.get(slug=f"{SLUG}{name}")
                tally.reads += 1
                if tally.queries == queries:
                    tally.hits += 1
                else:
                    tally.misses += 1
            if done % TELL_EVERY == 0:
                tell(done)
    tally.stale_sets_refused = stats.total().stale_sets_refused - refused_before
    return tally


def _with_clients(
    trace: Trace, keys: dict[int, int], processes: int, tell: Callable[[int], None]
) -> tuple[Tally, float]:
    context = multiprocessing.get_context("spawn")
    ours: dict[Connection, int] = {}
    clients = []
    try:
        for number in range(processes):
            mine, theirs = context.Pipe()
            arguments = (f"{__name__}.play", theirs, trace, keys, number, processes)
            clients.append(context.Process(target=call_after_setup, args=arguments, daemon=True))
            clients[-1].start()
            theirs.close()
            ours[mine] = 0
        for pipe in ours:
            _received(pipe)  # each says that it is ready
        begun = time.perf_counter()
        for pipe in ours:
            pipe.send("go")
        tally = Tally()
        for pipe, told in _told(ours):
            if isinstance(told, Tally):
                tally.add(told)
            else:
                ours[pipe] = told
                tell(sum(ours.values()))
        return tally, time.perf_counter() - begun
    finally:
        for client in clients:
            client.terminate()
            client.join()


def _told(pipes: dict[Connection, int]) -> Iterator[tuple[Connection, Any]]:
    """Yield what the clients tell, until each has handed in its tally."""
    open_pipes = list(pipes)
    while open_pipes:
        for ready in wait(open_pipes):
            pipe = next(each for each in open_pipes if each is ready)
            told = _received(pipe)
            if isinstance(told, Tally):
                open_pipes.remove(pipe)
            yield pipe, told


def _received(pipe: Connection) -> Any:
    try:
        told = pipe.recv()
    except EOFError:
        told = "it ended without a word"
    if isinstance(told, str) and told != "ready":
        message = f"a client failed: {told}"
        raise ReplayError(message)
    return told


def play(pipe: Connection, trace: Trace, keys: dict[int, int], number: int, processes: int) -> None:
    """Play every so many-th request and tell the parent. Runs in a client process."""
    try:
        connection.ensure_connection()
        pipe.send("ready")
        pipe.recv()
        pipe.send(_client(trace, keys, range(number, len(trace), processes), pipe.send))
    except Exception as error:  # noqa: BLE001  # the parent raises it
        pipe.send(f"{type(error).__name__}: {error}")
    finally:
        connection.close()
