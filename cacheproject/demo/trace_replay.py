"""Plays a trace through the whole stack: each block is a row, each request reads or writes it."""

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

#: The prefix of the slug of a block's row; the block's number follows.
SLUG = "block-"
CHUNK_ROWS = 5000
PROGRESS_EVERY = 500


class ReplayError(Exception):
    """A client process of the replay failed."""


@dataclass
class Tally:
    """What a client counted.

    Attributes:
        reads: Requests that read.
        hits: Reads without a database query.
        misses: Reads with at least one.
        writes: Requests that wrote; all were acknowledged.
        queries: Database queries of the reads.
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


def make_rows(trace: Trace, on_progress: Callable[[int], None]) -> dict[int, int]:
    """Create a row for each block and delete those of an earlier replay; return primary keys by block number.

    Args:
        trace: The trace.
        on_progress: Called with the number of rows created so far.
    """
    old = Article.objects.filter(slug__startswith=SLUG)
    old._raw_delete(old.db)  # nothing refers to the rows, so one statement is enough
    keys: dict[int, int] = {}
    for start in range(0, len(trace.names), CHUNK_ROWS):
        names = trace.names[start : start + CHUNK_ROWS]
        articles = Article.objects.bulk_create(
            [Article(slug=f"{SLUG}{name}", title=f"Block {name}", body="x" * 200) for name in names]
        )
        keys.update((name, article.pk) for name, article in zip(names, articles, strict=True))
        on_progress(len(keys))
    return keys


def replay(
    trace: Trace, keys: dict[int, int], processes: int, on_progress: Callable[[int], None]
) -> tuple[Tally, float]:
    """Play every request, divided among ``processes`` clients; return the counts and the seconds.

    Args:
        trace: The requests.
        keys: Primary keys by block number.
        processes: How many clients; with one, this process is the client.
        on_progress: Called with the number of requests done so far.

    Raises:
        ReplayError: A client failed.
    """
    if processes == 1:
        started = time.perf_counter()
        tally = _client(trace, keys, range(len(trace)), on_progress)
        return tally, time.perf_counter() - started
    return _with_clients(trace, keys, processes, on_progress)


def _client(trace: Trace, keys: dict[int, int], share: range, on_progress: Callable[[int], None]) -> Tally:
    """Play a share of the requests in this process."""
    tally = Tally()

    def count(execute: Callable[..., Any], *arguments: Any) -> Any:
        tally.queries += 1
        return execute(*arguments)

    counters = Article.cached.cache.client.counters
    refused_before = counters.total().stale_sets_refused
    with connection.execute_wrapper(count):
        for done, index in enumerate(share, 1):
            name = trace.names[trace.blocks[index]]
            if trace.writes[index]:
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
            if done % PROGRESS_EVERY == 0:
                on_progress(done)
    tally.stale_sets_refused = counters.total().stale_sets_refused - refused_before
    return tally


def _with_clients(
    trace: Trace, keys: dict[int, int], processes: int, on_progress: Callable[[int], None]
) -> tuple[Tally, float]:
    context = multiprocessing.get_context("spawn")
    done_by_pipe: dict[Connection, int] = {}
    clients = []
    try:
        for number in range(processes):
            own_end, child_end = context.Pipe()
            arguments = (f"{__name__}.play", child_end, trace, keys, number, processes)
            clients.append(context.Process(target=call_after_setup, args=arguments, daemon=True))
            clients[-1].start()
            child_end.close()
            done_by_pipe[own_end] = 0
        for pipe in done_by_pipe:
            _received(pipe)  # each client sends that it is ready
        started = time.perf_counter()
        for pipe in done_by_pipe:
            pipe.send("go")
        tally = Tally()
        for pipe, message in _messages(done_by_pipe):
            if isinstance(message, Tally):
                tally.add(message)
            else:
                done_by_pipe[pipe] = message
                on_progress(sum(done_by_pipe.values()))
        return tally, time.perf_counter() - started
    finally:
        for client in clients:
            client.terminate()
            client.join()


def _messages(pipes: dict[Connection, int]) -> Iterator[tuple[Connection, Any]]:
    """Yield the clients' messages until each has sent its tally."""
    open_pipes = list(pipes)
    while open_pipes:
        for ready in wait(open_pipes):
            pipe = next(each for each in open_pipes if each is ready)
            message = _received(pipe)
            if isinstance(message, Tally):
                open_pipes.remove(pipe)
            yield pipe, message


def _received(pipe: Connection) -> Any:
    try:
        message = pipe.recv()
    except EOFError:
        message = "it ended without a message"
    if isinstance(message, str) and message != "ready":
        error = f"a client failed: {message}"
        raise ReplayError(error)
    return message


def play(pipe: Connection, trace: Trace, keys: dict[int, int], number: int, processes: int) -> None:
    """Play every ``processes``-th request and send counts to the parent. Runs in a client process."""
    try:
        connection.ensure_connection()
        pipe.send("ready")
        pipe.recv()
        pipe.send(_client(trace, keys, range(number, len(trace), processes), pipe.send))
    except Exception as error:  # noqa: BLE001  # the parent raises it
        pipe.send(f"{type(error).__name__}: {error}")
    finally:
        connection.close()
