"""Writes that are collected and sent together; the sender is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from django.db.models import F

from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind import pipelines
from cachebackend.writebehind.pipelines import GivenWrite, Pipeline
from tests.shop.models import Photo


class Sender:
    """Records the keys of the writes that are sent together."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent: list[list[Any]] = []
        self.error = error

    def send(self, writes: Sequence[GivenWrite]) -> None:
        self.sent.append([pk for pk, _, _ in writes])
        if self.error:
            raise self.error

    async def send_async(self, writes: Sequence[GivenWrite]) -> None:
        self.send(writes)

    def pipeline(self) -> Pipeline[Photo]:
        return Pipeline(Photo.behind.rows, self.send, self.send_async)


def test_writes_are_sent_when_the_block_ends() -> None:
    """All together; a block without writes sends nothing."""
    sender = Sender()
    with sender.pipeline() as pipeline:
        for pk in (1, 2):
            pipeline.update(pk, views=F("views") + 1)
        pipeline.delete(3)
        assert sender.sent == []
    with sender.pipeline():
        pass
    assert sender.sent == [[1, 2, 3]]


def test_a_second_write_of_a_row_sends_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """So each error is of one write; and a full pipeline is sent too."""
    monkeypatch.setattr(pipelines, "MAX_WRITES", 2)
    sender = Sender()
    with sender.pipeline() as pipeline:
        for pk in (1, 1, 2, 3):
            pipeline.update(pk, views=1)
    assert sender.sent == [[1], [1, 2], [3]]


def test_a_block_that_raises_sends_nothing_more() -> None:
    """What is collected is dropped, also after the error of an earlier write."""
    sender = Sender(OSError("away"))
    with pytest.raises(OSError, match="away"), sender.pipeline() as pipeline:
        for pk in (1, 2, 1):
            pipeline.update(pk, views=1)
    with pytest.raises(KeyError), sender.pipeline() as pipeline:
        pipeline.update(1, views=1)
        raise KeyError
    assert sender.sent == [[1, 2]]


def test_a_write_that_is_not_valid_raises_at_its_call() -> None:
    """It is not collected; the others are, if the caller handles the error."""
    sender = Sender()
    with sender.pipeline() as pipeline:
        pipeline.update(1, views=1)
        with pytest.raises(WriteBehindRefusedError):
            pipeline.update(2, views="text")
    assert sender.sent == [[1]]


def test_the_async_twins_do_the_same() -> None:
    """In an event loop."""
    sender = Sender()

    async def main() -> None:
        async with sender.pipeline() as pipeline:
            await pipeline.aupdate(1, views=1)
            await pipeline.adelete(1)

    asyncio.run(main())
    assert sender.sent == [[1], [1]]


def test_the_write_of_a_call_that_raises_is_collected() -> None:
    """The error is that of the writes before it; it is sent with the next ones."""
    sender = Sender()
    with sender.pipeline() as pipeline:
        pipeline.update(1, views=1)
        sender.error = RuntimeError()
        with pytest.raises(RuntimeError):
            pipeline.update(1, views=2)
        sender.error = None
    assert sender.sent == [[1], [1]]


def test_tasks_that_share_a_pipeline_lose_no_write() -> None:
    """While one sends what is collected, the others wait with their writes."""
    sender = Sender()

    async def send_late(writes: Sequence[GivenWrite]) -> None:
        await asyncio.sleep(0)
        sender.send(writes)

    async def run() -> None:
        async with Pipeline(Photo.behind.rows, sender.send, send_late) as pipeline:
            await asyncio.gather(*[pipeline.aupdate(1, views=number) for number in range(10)])

    asyncio.run(run())
    assert sender.sent == [[1]] * 10


def test_a_pipeline_takes_writes_in_its_block_only() -> None:
    """A write after it would never be sent."""
    with Sender().pipeline() as pipeline:
        pass
    with pytest.raises(RuntimeError, match="in its block only"):
        pipeline.update(1, views=1)
