"""The block in which a loader runs: where it is seen, and where it ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from cachebackend.drivers import adrive, drive
from cachebackend.effects import Load, Operation
from cachebackend.loader import held_tokens, in_loader, loader_block, running
from tests.interrupting import interruptions, raising_handler


def load(loader: object) -> Operation[bool]:
    return (yield Load(loader))  # type: ignore[arg-type]  # any loader


def test_a_blocking_loader_is_in_the_block() -> None:
    """Only while it runs."""
    before = len(running)  # another test may have abandoned an operation inside its loader
    assert drive(load(lambda: in_loader() and len(running) == before + 1), []) is True
    assert not in_loader()
    assert len(running) == before


def test_a_coroutine_and_its_tasks_are_in_the_block() -> None:
    """Another task of the event loop is not."""

    async def inside() -> bool:
        return await asyncio.create_task(ask())

    async def ask() -> bool:
        await asyncio.sleep(0)
        return in_loader()

    async def main() -> list[bool]:
        return await asyncio.gather(adrive(load(inside), []), ask(), adrive(load(ask), []))

    before = len(running)
    assert asyncio.run(main()) == [True, False, True]
    assert len(running) == before


def test_the_block_ends_with_an_error() -> None:
    """And a block inside it ends only itself."""
    with loader_block():
        with pytest.raises(ZeroDivisionError):
            drive(load(lambda: 1 / 0), [])
        assert in_loader()
    assert not in_loader()


def test_an_interrupted_block_ends() -> None:
    """Wherever a signal handler raises: otherwise the thread would read no near copies any more."""
    before = len(running)
    with raising_handler():
        for interruption in interruptions(lambda: drive(load(held_tokens), [])):
            gc.collect()
            assert (in_loader(), held_tokens(), len(running)) == (False, (), before), interruption.place


def test_another_thread_is_not_in_the_block() -> None:
    """Its reads have nothing to do with the loader."""
    found: list[bool] = []
    with loader_block():
        thread = threading.Thread(target=lambda: found.append(in_loader()))
        thread.start()
        thread.join()
    assert found == [False]


#: A thread that loads, and one that waits, exist in the parent only; the fork is made in a loader.
PROGRAM = """
import os, sys, threading
from cachebackend import blocked_threads, loader

def load():
    wait = blocked_threads.Wait()
    with loader.loader_block((b"other",)):
        loading.set()
        ended.wait()

loading, ended = threading.Event(), threading.Event()
threading.Thread(target=load).start()
loading.wait()
with loader.loader_block((b"own",)):
    child = os.fork()
    if child == 0:
        left = [block().tokens for block in loader.running], len(blocked_threads._waits), loader.in_loader()
        os._exit(left != ([(b"own",)], 0, True))
ended.set()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_has_no_loaders_and_waits_of_other_threads() -> None:
    """Its callers would count them forever, and not wait for a lease."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
