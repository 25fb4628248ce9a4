"""Tasks, threads and event loops that read and write the same rows and values at random.

A mixture is a random program: a tree of reads and writes, and of the ways in which Python and Django lead
from one thread or task to another. It is made before it runs, so a seed makes the same one again; in which
order its parts run is left to the system. Each part checks what it reads:

- no read is older than what was acknowledged before it, and none shows what was rolled back;
- at most one loader of a key runs under a lease at a time.

When all parts have ended no lease is left on a node, and no loader, wait or lease in this process.
Leases do not expire while a mixture runs. So a wait that only their expiry ends is one that does not end.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import io
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.cache import cache
from django.db import connections, transaction
from django.db.models import F, Sum

from cachebackend import blocked_threads, loader
from cacheproject.demo.models import Article

__all__ = ["LEASE_TIMEOUT", "Mixture"]

ROWS, VALUES, CONSTANTS = 4, 4, 3
#: Programs that run at the same time, each in its own thread; how many parts they have; how deep these are.
PROGRAMS, PARTS, DEPTH = 4, 5, 4
#: A rolled back write adds this, and no other one does.
ROLLED_BACK = 10_000
#: Threads of the pool of each event loop.
POOL = 3
#: Longer than a test waits for a mixture, in seconds.
LEASE_TIMEOUT = 600.0
PATIENCE = 40.0


class LoaderError(Exception):
    """Raised by a loader, or to roll a transaction back."""


@dataclass(frozen=True)
class Act:
    """A part of a program.

    Attributes:
        kind: The name of a method of ``Mixture``, without ``do_`` or ``ado_``.
        number: The row, or the value.
        parts: The acts inside it.
    """

    kind: str
    number: int = 0
    parts: tuple[Act, ...] = ()


@dataclass
class Ledger:
    """What was acknowledged, and the loaders that run.

    Attributes:
        writes: The acknowledged writes of each row.
        loading: The loaders of each value that run under a lease.
    """

    writes: Counter[int] = field(default_factory=Counter)
    loading: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Mixture:
    """One random mixture.

    Args:
        name: Its seed.
        keeps_leases: Whether a get that misses keeps its lease until a set (``lease_on_get``).

    Attributes:
        found: What was wrong.
        done: How often each kind of act has ended.
    """

    def __init__(self, name: str, *, keeps_leases: bool) -> None:
        self._source = random.Random(name)
        self._keeps_leases = keeps_leases
        self.found: list[str] = []
        self.done: Counter[str] = Counter()
        self._ledger = Ledger()
        self._pool = ThreadPoolExecutor(POOL, thread_name_prefix="own")
        kinds = ("thread", "async_to_sync", "run", "run", "looping_loader")
        self.programs = [self._program(self._source.choice(kinds)) for _ in range(PROGRAMS)]

    # Making the programs

    def _program(self, kind: str) -> Act:
        if kind == "looping_loader":
            return Act(kind, self._source.randrange(VALUES))
        parts = [self._act(DEPTH, is_async=kind != "thread", in_pool=False) for _ in range(PARTS)]
        return Act(kind, parts=tuple(parts))

    def _act(
        self, depth: int, *, is_async: bool, in_pool: bool, first_value: int = 0, in_cancelled: bool = False
    ) -> Act:
        """Make an act.

        A loader reads only values after its own, so that no two loaders wait for each other. In a thread of a
        pool nothing gives work to a pool: it could wait for itself. What may be cancelled makes no loop in
        another thread: asgiref would await a task of that loop.
        """
        choose = self._source.choice
        kinds = ["row", "row", "rows", "list", "sum", "constant", "constants", "write", "delete", "fail"]
        if first_value < VALUES:
            kinds += ["value"] * 4
        if not is_async:
            kinds += ["commit", "roll_back", "constant_in_loop"]
        if self._keeps_leases:
            kinds += ["aside"] * 3
        if depth > 0:
            kinds += ["together", "sync", "sync", "request"] if is_async else ["async"]
            kinds += ["new_loop"] if not is_async and not in_cancelled else []
            kinds += ["pool", "unsensitive", "own_pool"] if is_async and not in_pool else []
            kinds += ["cancel", "time_out"] if is_async and not self._keeps_leases else []
        kind = choose(kinds)

        def parts(**changed: Any) -> tuple[Act, ...]:
            given = {"is_async": is_async, "in_pool": in_pool, "first_value": first_value}
            given |= {"in_cancelled": in_cancelled or kind in {"cancel", "time_out"}} | changed
            return tuple(self._act(depth - 1, **given) for _ in range(self._source.randint(1, 3)))

        match kind:
            case "value":
                number = self._source.randrange(first_value, VALUES)
                return Act(kind, number, parts(first_value=number + 1) if depth > 0 else ())
            case "constant" | "constants" | "constant_in_loop":
                return Act(kind, self._source.randrange(CONSTANTS))
            case "commit" | "roll_back":
                inside = ["row", "rows", "list", "sum", "write", "constant"]
                acts = [Act(choose(inside), self._source.randrange(ROWS)) for _ in range(2)]
                row = self._source.randrange(ROWS)  # one row, so that no two transactions lock each other
                return Act(kind, row, tuple(each for each in acts if each.kind != "write"))
            case "sync":
                return Act(kind, parts=parts(is_async=False))
            case "pool" | "unsensitive" | "own_pool":
                return Act(kind, parts=parts(is_async=False, in_pool=True))
            case "async" | "new_loop":
                return Act(kind, parts=parts(is_async=True))
            case "together" | "request" | "cancel" | "time_out":
                return Act(kind, self._source.randrange(30), parts())
            case _:
                return Act(kind, self._source.randrange(ROWS))

    # Running them

    def run(self) -> list[str]:
        """Run all programs, and return what was wrong."""
        for number in range(ROWS):
            Article.objects.create(slug=f"row-{number}", title="mixed", price=0)
        with ThreadPoolExecutor(PROGRAMS, thread_name_prefix="program") as threads:
            running = [threads.submit(self._run_program, each) for each in self.programs]
            if wait(running, PATIENCE).not_done:
                self.found.append(f"a wait does not end\n{_stacks()}")
                while wait(running, 0.1).not_done:
                    cache.clear()  # the leases are gone, and the waits end
        self._pool.shutdown()
        self._check_end()
        return self.found

    def _run_program(self, program: Act) -> None:
        try:
            self.do(program)
        except Exception as error:  # noqa: BLE001  # every error is reported with the seed
            self.found.append(f"{program.kind} raised {error!r}")
        finally:
            cache.close()
            connections.close_all()

    def do(self, act: Act) -> None:
        """Do an act in blocking code."""
        getattr(self, f"do_{act.kind}")(act)
        self.done[act.kind] += 1

    async def ado(self, act: Act) -> None:
        """Do an act in a task."""
        await getattr(self, f"ado_{act.kind}")(act)
        self.done[f"a{act.kind}"] += 1

    def _do_parts(self, act: Act) -> None:
        for part in act.parts:
            self.do(part)

    async def _ado_parts(self, act: Act) -> None:
        for part in act.parts:
            await self.ado(part)

    # From one thread or task to another

    do_thread = _do_parts

    def do_async_to_sync(self, act: Act) -> None:
        async_to_sync(self.ado_main)(act)

    def do_run(self, act: Act) -> None:
        asyncio.run(self.ado_main(act))

    async def ado_main(self, act: Act) -> None:
        """Run the main coroutine of a loop: its parts are tasks."""
        loop = asyncio.get_running_loop()
        if loop.__dict__.get("_default_executor") is None:
            loop.set_default_executor(ThreadPoolExecutor(POOL))
        await self.ado_together(act)

    def do_async(self, act: Act) -> None:
        async_to_sync(self._ado_parts)(act)

    def do_new_loop(self, act: Act) -> None:
        async_to_sync(self.ado_main, force_new_loop=True)(act)

    async def ado_together(self, act: Act) -> None:
        results = await asyncio.gather(*map(self.ado, act.parts), return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                raise error

    async def ado_sync(self, act: Act) -> None:
        await sync_to_async(self._do_parts)(act)

    async def ado_unsensitive(self, act: Act) -> None:
        await sync_to_async(self._in_pool, thread_sensitive=False)(act)

    async def ado_own_pool(self, act: Act) -> None:
        await sync_to_async(self._in_pool, thread_sensitive=False, executor=self._pool)(act)

    async def ado_pool(self, act: Act) -> None:
        await asyncio.to_thread(self._in_pool, act)

    def _in_pool(self, act: Act) -> None:
        try:
            self._do_parts(act)
        finally:
            connections.close_all()

    async def ado_request(self, act: Act) -> None:
        is_outermost = SyncToAsync.thread_sensitive_context.get(None) is None
        async with ThreadSensitiveContext():
            try:
                await self.ado_together(act)
            finally:
                if is_outermost:
                    await sync_to_async(self._end_request)()

    def _end_request(self) -> None:
        cache.close()
        connections.close_all()

    async def ado_cancel(self, act: Act) -> None:
        """Cancel a task after some steps of the loop."""
        task = asyncio.create_task(self._ado_parts(act))
        for _ in range(act.number):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def ado_time_out(self, act: Act) -> None:
        """Let a task time out, early or late."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(act.number / 1000):
                await self._ado_parts(act)

    def do_looping_loader(self, act: Act) -> None:
        """Load a value by a loop of the loader, whose blocking code has the thread of all loops."""
        self._value(act, lambda: asyncio.run(sync_to_async(self._load)(act)))

    # Reading

    def _floors(self) -> list[int]:
        return [self._ledger.writes[row] for row in range(ROWS)]

    def _check(self, kind: str, row: int, value: Any, floor: int) -> None:
        if value >= ROLLED_BACK:
            self.found.append(f"{kind} has read what was rolled back from row {row}: {value}")
        if value < floor:
            self.found.append(f"{kind} has read {value} from row {row}, which was {floor} before")

    def do_row(self, act: Act) -> None:
        floor = self._floors()[act.number]
        self._check("row", act.number, Article.cached.get(slug=f"row-{act.number}").price, floor)

    async def ado_row(self, act: Act) -> None:
        floor = self._floors()[act.number]
        row = await Article.cached.aget(slug=f"row-{act.number}")
        self._check("arow", act.number, row.price, floor)

    def do_rows(self, _: Act) -> None:
        floors = self._floors()
        found = Article.cached.in_bulk([f"row-{row}" for row in range(ROWS)], field_name="slug")
        self._check_rows("rows", found.values(), floors)

    async def ado_rows(self, _: Act) -> None:
        floors = self._floors()
        found = await Article.cached.ain_bulk([f"row-{row}" for row in range(ROWS)], field_name="slug")
        self._check_rows("arows", found.values(), floors)

    def do_list(self, _: Act) -> None:
        floors = self._floors()
        self._check_rows("list", list(Article.cached.filter(title="mixed")), floors)

    async def ado_list(self, _: Act) -> None:
        floors = self._floors()
        self._check_rows("alist", [row async for row in Article.cached.filter(title="mixed")], floors)

    def _check_rows(self, kind: str, rows: Any, floors: list[int]) -> None:
        prices = {row.slug: row.price for row in rows}
        for row, floor in enumerate(floors):
            self._check(kind, row, prices.get(f"row-{row}", -1), floor)

    def do_sum(self, _: Act) -> None:
        floor = sum(self._floors())
        self._check("sum", -1, Article.cached.aggregate(of=Sum("price"))["of"], floor)

    async def ado_sum(self, _: Act) -> None:
        floor = sum(self._floors())
        self._check("asum", -1, (await Article.cached.aaggregate(of=Sum("price")))["of"], floor)

    # Values

    def do_value(self, act: Act) -> None:
        self._value(act, lambda: self._load(act))

    def _value(self, act: Act, load: Callable[[], Any]) -> None:
        floor = self._floors()[act.number % ROWS]
        with contextlib.suppress(LoaderError):
            name = f"value-{act.number}"
            value = cache.get_or_set(name, self._counted(name, load), 60, tags=[Article])
            self._check("value", act.number % ROWS, value, floor)

    async def ado_value(self, act: Act) -> None:
        floor, name = self._floors()[act.number % ROWS], f"value-{act.number}"

        around = loader.held_tokens()

        async def load() -> Any:
            with self._one_loader(name, loader.held_tokens() != around):
                await self._ado_parts(act)
                return (await Article.objects.aget(slug=f"row-{act.number % ROWS}")).price

        with contextlib.suppress(LoaderError):
            value = await cache.aget_or_set(name, load, 60, tags=[Article])
            self._check("avalue", act.number % ROWS, value, floor)

    def _load(self, act: Act) -> Any:
        self._do_parts(act)
        return Article.objects.get(slug=f"row-{act.number % ROWS}").price

    def do_fail(self, act: Act) -> None:
        """Load a value by a loader that raises."""

        def fail() -> None:
            raise LoaderError

        with contextlib.suppress(LoaderError):
            cache.get_or_set(f"failing-{act.number}", fail, 60)

    async def ado_fail(self, act: Act) -> None:
        async def fail() -> None:
            await sync_to_async(int)()
            raise LoaderError

        with contextlib.suppress(LoaderError):
            await cache.aget_or_set(f"failing-{act.number}", fail, 60)

    def do_constant(self, act: Act) -> None:
        """Load a value that nothing invalidates."""
        name = f"constant-{act.number % CONSTANTS}"
        cache.get_or_set(name, self._counted(name, lambda: 1), 60)

    async def ado_constant(self, act: Act) -> None:
        name, around = f"constant-{act.number % CONSTANTS}", loader.held_tokens()

        async def load() -> int:
            with self._one_loader(name, loader.held_tokens() != around):
                return await sync_to_async(int)()

        await cache.aget_or_set(name, load, 60)

    def do_constant_in_loop(self, act: Act) -> None:
        """Load such a value in a loop that blocking code makes."""
        name, around = f"constant-{act.number % CONSTANTS}", loader.held_tokens()

        async def load() -> int:
            with self._one_loader(name, loader.held_tokens() != around):
                await asyncio.sleep(0)
                return 1

        async def read() -> None:
            await cache.aget_or_set(name, load, 60)

        asyncio.run(read())

    def do_constants(self, _: Act) -> None:
        """Load several values in one call."""
        cache.get_or_set_many(["many-1", "many-2"], lambda names: dict.fromkeys(names, 1), 60)

    async def ado_constants(self, _: Act) -> None:
        async def load(names: list[str]) -> dict[str, int]:
            return await sync_to_async(dict.fromkeys)(names, 1)  # type: ignore[arg-type]

        await cache.aget_or_set_many(["many-1", "many-2"], load, 60)

    def _counted(self, name: str, load: Callable[[], Any]) -> Callable[[], Any]:
        around = loader.held_tokens()

        def counted() -> Any:
            with self._one_loader(name, loader.held_tokens() != around):
                return load()

        return counted

    @contextlib.contextmanager
    def _one_loader(self, name: str, is_leased: bool) -> Iterator[None]:
        """Check that a loader is the only one that runs under a lease; nothing invalidates a constant."""
        with self._ledger.lock:
            self._ledger.loading[name] += is_leased
            if name.startswith("constant") and self._ledger.loading[name] > 1:
                self.found.append(f"two loaders of {name} run under leases")
        try:
            yield
        finally:
            with self._ledger.lock:
                self._ledger.loading[name] -= is_leased

    def do_aside(self, act: Act) -> None:
        """Get, load and set a value that each write of its row deletes."""
        floor, name = self._floors()[act.number], f"aside-{act.number}"
        value = cache.get(name)
        if value is None:
            value = Article.objects.get(slug=f"row-{act.number}").price
            cache.set(name, value, 60)
        self._check("aside", act.number, value, floor)

    async def ado_aside(self, act: Act) -> None:
        floor, name = self._floors()[act.number], f"aside-{act.number}"
        value = await cache.aget(name)
        if value is None:
            value = (await Article.objects.aget(slug=f"row-{act.number}")).price
            await cache.aset(name, value, 60)
        self._check("aaside", act.number, value, floor)

    # Writing

    def do_write(self, act: Act) -> None:
        Article.objects.filter(slug=f"row-{act.number}").update(price=F("price") + 1)
        cache.delete(f"aside-{act.number}")
        with self._ledger.lock:
            self._ledger.writes[act.number] += 1

    async def ado_write(self, act: Act) -> None:
        await Article.objects.filter(slug=f"row-{act.number}").aupdate(price=F("price") + 1)
        await cache.adelete(f"aside-{act.number}")
        with self._ledger.lock:
            self._ledger.writes[act.number] += 1

    def do_commit(self, act: Act) -> None:
        """Write and read in a transaction."""
        with transaction.atomic():
            Article.objects.filter(slug=f"row-{act.number}").update(price=F("price") + 1)
            self._do_parts(act)
        cache.delete(f"aside-{act.number}")
        with self._ledger.lock:
            self._ledger.writes[act.number] += 1

    def do_roll_back(self, act: Act) -> None:
        with contextlib.suppress(LoaderError), transaction.atomic():
            Article.objects.filter(slug=f"row-{act.number}").update(price=F("price") + ROLLED_BACK)
            raise LoaderError

    def do_delete(self, act: Act) -> None:
        cache.delete(f"value-{act.number}")

    async def ado_delete(self, act: Act) -> None:
        await cache.adelete(f"value-{act.number}")

    # When all have ended

    def _check_end(self) -> None:
        gc.collect()
        blocks = [block for each in tuple(loader.running) if (block := each()) is not None]
        waits = [each for each in tuple(blocked_threads._waits) if each() is not None]
        if blocks or waits or blocked_threads.kept:
            self.found.append(f"left: {blocks}, {waits}, {dict(blocked_threads.kept)}")


def _stacks() -> str:
    """Return what each thread does, and for what each task waits."""
    tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]
    text = io.StringIO()
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text.write(file.read())
    for task in tasks:
        text.write(f"{task}\n")
        awaited: Any = task.get_coro()
        while awaited is not None:
            frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
            text.write(f"  {frame}\n" if frame else f"  {awaited}\n")
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return text.getvalue()
