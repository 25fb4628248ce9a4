"""Which waits for leases are allowed: those for which no holder of a lease may wait."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as pools
from contextvars import copy_context
from inspect import signature
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

from cachebackend import blocked_threads
from cachebackend.blocked_threads import LeaseHolder, Wait, is_thread_of_tasks


def may_wait(*holders: LeaseHolder) -> bool:
    """Return whether blocking code may wait."""
    return Wait().is_allowed(holders, is_task=False)


def may_task_wait(*holders: LeaseHolder) -> bool:
    """Return whether a task may wait."""
    return Wait().is_allowed(holders, is_task=True)


def test_the_thread_of_a_task_does_not_wait_for_it() -> None:
    """Another thread does, and so does another task, which keeps no thread."""

    async def main() -> list[bool]:
        holder = LeaseHolder()
        await sync_to_async(int)()  # an executor starts a thread before it has it
        thread, other = sync_to_async(may_wait)(holder), asyncio.to_thread(may_wait, holder)
        return [await thread, await other, may_task_wait(holder)]

    assert asyncio.run(main()) == [False, True, True]


def test_each_request_has_its_thread() -> None:
    """The thread of one request waits for a task of another one."""

    async def holder_of_request() -> tuple[LeaseHolder, bool]:
        async with ThreadSensitiveContext():
            await sync_to_async(int)()  # the thread begins
            holder = LeaseHolder()
            return holder, await sync_to_async(may_wait)(holder)

    async def other_request() -> bool:
        async with ThreadSensitiveContext():
            return await sync_to_async(may_wait)(await first)

    async def main() -> list[bool]:
        nonlocal first
        holder, in_own_thread = await holder_of_request()
        first = asyncio.get_running_loop().create_future()
        first.set_result(holder)
        return [in_own_thread, await other_request()]

    first: asyncio.Future[LeaseHolder]
    assert asyncio.run(main()) == [False, True]


def test_a_thread_in_async_to_sync_works_for_its_tasks() -> None:
    """A task waits for another task of the call, but not for one whose work the thread cannot do then."""

    async def holder_outside() -> LeaseHolder:
        return LeaseHolder()

    async def of_call(outside: LeaseHolder) -> list[bool]:
        return [may_task_wait(LeaseHolder()), may_task_wait(outside)]

    async def main() -> list[bool]:
        return await sync_to_async(lambda: async_to_sync(of_call)(outside))()

    outside = LeaseHolder()
    assert async_to_sync(of_call)(outside) == [True, True]  # blocking code has its thread
    outside = asyncio.run(holder_outside())
    assert asyncio.run(main()) == [True, False]


def test_a_thread_waits_in_async_to_sync_for_asyncio_to_thread() -> None:
    """So that one does not wait either for a task that needs the thread that waits for it."""

    async def of_call(outside: LeaseHolder) -> bool:
        return await asyncio.to_thread(may_wait, outside)

    async def main() -> bool:
        return await sync_to_async(lambda: async_to_sync(of_call)(LeaseHolder()))()

    async def other() -> list[bool]:
        holder = LeaseHolder()
        return [
            await sync_to_async(lambda: async_to_sync(of_call, force_new_loop=True)(holder))(),
            await of_call(holder),
        ]

    assert asyncio.run(main())
    assert asyncio.run(other()) == [False, True]


def test_a_thread_of_a_pool_that_calls_async_to_sync_keeps_its_callers_waiting() -> None:
    """Its task does not wait for one that needs the thread in which the loop of the pool was made."""

    async def of_call(outside: LeaseHolder) -> bool:
        return may_task_wait(outside)

    async def of_pool(outside: LeaseHolder) -> bool:
        await asyncio.to_thread(int)  # the thread is one of the pool's
        return await asyncio.to_thread(lambda: async_to_sync(of_call)(outside))

    async def without_context(outside: LeaseHolder) -> bool:
        run = asyncio.get_running_loop().run_in_executor
        await run(None, int)
        return await run(None, may_wait, outside)

    async def main(of_loop: Callable[[LeaseHolder], Awaitable[bool]]) -> list[bool]:
        new_loop, holder = async_to_sync(of_loop, force_new_loop=True), LeaseHolder()
        return [await sync_to_async(new_loop)(holder), await of_loop(holder)]

    assert asyncio.run(main(of_pool)) == [False, True]
    assert asyncio.run(main(without_context)) == [False, True]


def test_work_shows_that_a_thread_may_wait_for_a_pool() -> None:
    """If its call of ``async_to_sync`` has made no loop, nothing else does."""

    async def of_call(outside: LeaseHolder) -> list[bool]:
        before = may_task_wait(outside)
        loop.call_soon_threadsafe(is_begun.set)
        await asyncio.to_thread(is_given.wait)
        return [before, may_task_wait(outside)]

    async def of_pool(outside: LeaseHolder) -> list[bool]:
        await asyncio.to_thread(int)  # the thread is one of the pool's
        return await asyncio.to_thread(lambda: async_to_sync(of_call)(outside))

    async def main() -> list[bool]:
        nonlocal loop, is_begun
        loop, is_begun = asyncio.get_running_loop(), asyncio.Event()
        holder = LeaseHolder()
        asked = asyncio.create_task(sync_to_async(lambda: async_to_sync(of_pool)(holder))())
        await is_begun.wait()
        work = asyncio.create_task(sync_to_async(int)())
        await asyncio.sleep(0)  # the work is given
        is_given.set()
        await work
        return await asked

    loop: asyncio.AbstractEventLoop
    is_begun: asyncio.Event
    is_given = threading.Event()
    assert asyncio.run(main()) == [True, False]


def test_blocking_code_never_waits_in_an_event_loop() -> None:
    """Even if no loader runs yet: a task of the loop may be about to take it."""

    async def main() -> list[bool]:
        return [may_wait(), await asyncio.to_thread(may_wait)]

    assert asyncio.run(main()) == [False, True]


def test_work_shows_that_blocking_code_waits_for_a_thread() -> None:
    """A loader in a thread that starts an event loop."""
    running, is_given = threading.Event(), threading.Event()

    def ask(holder: LeaseHolder) -> list[bool]:
        before = may_wait(holder)
        running.set()
        is_given.wait()
        return [before, may_wait(holder)]

    async def main() -> list[bool]:
        asked = asyncio.create_task(sync_to_async(ask)(holder))
        await asyncio.to_thread(running.wait)
        work = asyncio.create_task(sync_to_async(int)())
        await asyncio.sleep(0)  # the work is given
        is_given.set()
        await work
        return await asked

    holder = LeaseHolder()
    assert asyncio.run(main()) == [True, False]


@pytest.mark.parametrize("other_waits", [True, False])
def test_the_last_thread_of_a_pool_does_not_wait(other_waits: bool) -> None:
    """If work waits for the pool, and its other threads wait for leases, too."""
    begun, is_given = threading.Barrier(3), threading.Event()

    def stay(holder: LeaseHolder) -> None:
        wait = Wait()
        assert not other_waits or wait.is_allowed([holder], is_task=False)
        begun.wait()
        asked.wait()

    def ask(holder: LeaseHolder) -> bool:
        begun.wait()
        is_given.wait()
        is_allowed = may_wait(holder)
        asked.set()
        return is_allowed

    async def main() -> bool:
        loop, holder = asyncio.get_running_loop(), LeaseHolder()
        loop.set_default_executor(ThreadPoolExecutor(2))
        busy = [loop.run_in_executor(None, each, holder) for each in (stay, ask)]
        with ThreadPoolExecutor(1) as helper:
            await loop.run_in_executor(helper, begun.wait)
        work = loop.run_in_executor(None, int)
        is_given.set()
        return bool((await asyncio.gather(*busy, work))[1])

    asked = threading.Event()
    assert asyncio.run(main()) is not other_waits


def test_a_loop_that_blocking_code_runs_keeps_its_thread() -> None:
    """Its task does not wait for one that gives work to the thread; in another thread it does."""

    async def main() -> list[bool]:
        holder = LeaseHolder()
        await sync_to_async(int)()  # the thread begins
        return [
            await sync_to_async(lambda: asyncio.run(ask(holder)))(),
            await asyncio.to_thread(lambda: asyncio.run(ask(holder))),
        ]

    async def ask(holder: LeaseHolder) -> bool:
        return may_task_wait(holder)

    assert asyncio.run(main()) == [False, True]
    assert async_to_sync(main)() == [False, True]


@pytest.mark.skipif(
    "executor" not in signature(ThreadSensitiveContext).parameters, reason="asgiref before 3.12"
)
def test_a_context_with_an_executor_hides_no_thread() -> None:
    """The thread that has called ``async_to_sync`` outside of it waits for its tasks, too."""

    async def in_context(holder: LeaseHolder) -> bool:
        with ThreadPoolExecutor(1) as executor:
            async with ThreadSensitiveContext(executor=executor):
                return may_task_wait(holder)

    async def main() -> list[bool]:
        holder = LeaseHolder()
        await sync_to_async(int)()  # the thread begins
        return [await sync_to_async(async_to_sync(in_context))(holder), await in_context(holder)]

    assert asyncio.run(main()) == [False, True]


def while_work_waits(pool: ThreadPoolExecutor, ask: Callable[[], bool]) -> bool:
    """Return what a function returns in the thread of a pool, for which other work waits."""

    def run() -> bool:
        begun.set()
        is_given.wait()
        return ask()

    begun, is_given = threading.Event(), threading.Event()
    asked = pool.submit(run)
    begun.wait()
    pool.submit(int)
    is_given.set()
    return asked.result()


@pytest.mark.parametrize("is_task", [False, True])
def test_the_last_thread_of_another_pool_does_not_wait(is_task: bool) -> None:
    """A pool of the project's own, to which blocking loaders may give work; also if a loop runs in it."""

    async def ask_in_loop() -> bool:
        return may_task_wait(holder)

    def ask() -> bool:
        return asyncio.run(ask_in_loop()) if is_task else may_wait(holder)

    holder = LeaseHolder()
    with ThreadPoolExecutor(1) as pool:
        assert not while_work_waits(pool, ask)
        assert pool.submit(may_wait).result()  # no loader runs
        assert pool.submit(may_wait, holder).result()  # no work waits


def test_waits_may_end_while_threads_are_asked_for() -> None:
    """The garbage collector ends those that refer to themselves; it may run at any allocation."""
    waits, thresholds = [Wait() for _ in range(30)], gc.get_threshold()
    try:
        for allocations in range(1, 20):
            gc.disable()
            garbage: list[object] = [Wait()]
            garbage.append(garbage)
            del garbage
            gc.set_threshold(gc.get_count()[0] + allocations, 1000, 1000)
            gc.enable()
            assert blocked_threads._waiting_threads() == set()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
        del waits
        gc.collect()


class Changing(dict[Any, Any]):
    """A dictionary that other threads change in each iteration over it."""

    def items(self) -> Any:
        message = "dictionary changed size during iteration"
        raise RuntimeError(message)


def test_requests_and_threads_may_begin_while_pools_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are added by other threads: an event loop, and code that gives work to a pool."""

    def ask() -> bool:
        for weak in (SyncToAsync.context_to_thread_executor, pools._threads_queues):  # type: ignore[attr-defined]
            monkeypatch.setattr(weak, "data", Changing(weak.data))
        try:
            return may_wait(holder)
        finally:
            monkeypatch.undo()

    holder = LeaseHolder()
    with ThreadPoolExecutor(1) as pool:
        assert not while_work_waits(pool, ask)


def test_an_ended_wait_blocks_no_thread() -> None:
    """Also if it ends with its only reference."""
    wait = Wait()
    assert wait.is_allowed([LeaseHolder()], is_task=False)
    assert threading.current_thread() in blocked_threads._waiting_threads()
    wait.end()
    assert threading.current_thread() not in blocked_threads._waiting_threads()
    before = len(blocked_threads._waits)
    del wait
    gc.collect()
    assert len(blocked_threads._waits) == before - 1


def test_another_release_of_asgiref(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it has its threads elsewhere, callers wait."""

    async def main() -> bool:
        return await sync_to_async(may_wait)(LeaseHolder())

    def fail(_: bool) -> None:
        raise AttributeError

    monkeypatch.setattr(blocked_threads, "_blocked", fail)
    assert asyncio.run(main())


def test_a_loop_that_blocking_code_runs_has_the_thread_of_its_tasks() -> None:
    """So ``sync_to_async`` would wait for itself there, also in the first code of a request."""

    async def asks() -> bool:
        return is_thread_of_tasks()

    async def main() -> list[bool]:
        run = sync_to_async(lambda: asyncio.run(asks()))
        in_pool = asyncio.to_thread(lambda: asyncio.run(asks()))
        return [await run(), await asks(), await in_pool]

    async def request() -> list[bool]:
        async with ThreadSensitiveContext():
            return await main()

    for _ in range(20):
        found = [asyncio.run(main()), asyncio.run(request()), async_to_sync(main)()]
        assert found == [[True, False, False]] * 3


def test_a_loop_in_another_thread_that_has_the_context_of_blocking_code() -> None:
    """The library asgiref refuses to use the thread of all loops there: it waits for that loop."""

    async def asks() -> bool:
        return is_thread_of_tasks()

    def in_pool() -> bool:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(copy_context().run, asyncio.run, asks()).result()

    async def main() -> list[bool]:
        return [await sync_to_async(in_pool)(), await asks()]

    assert asyncio.run(main()) == [True, False]
