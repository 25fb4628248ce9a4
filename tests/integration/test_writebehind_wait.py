"""``behind.wait`` and the signal ``landed``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import ormsgpack
import pytest
from asgiref.sync import async_to_sync
from django.db.models import F
from django.utils import timezone

from cachebackend.errors import WriteBehindError
from cachebackend.models import ParkedWrite
from cachebackend.writebehind import landed, waiting
from cachebackend.writebehind.queue import project_queue
from tests.integration.write_behind import drain_all
from tests.interrupting import SoftLimitError, raising_handler
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
#: A parked write that does nothing.
NO_CHANGES = ormsgpack.packb({"marker": b"", "changes": []})


class Pauses:
    """Takes the place of sleeping: each pause is recorded, and a step of the test runs in it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.steps: Iterator[Callable[[], Any]] = iter(())

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        next(self.steps, lambda: None)()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """The pauses of a caller that waits."""
    pauses = Pauses()
    monkeypatch.setattr(waiting.time, "sleep", pauses.sleep)
    return pauses


@pytest.fixture
def meter() -> Meter:
    """A row with a queued write."""
    meter = Meter.objects.create()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    return meter


def test_a_caller_waits_until_the_queued_writes_are_in_the_database(meter: Meter, pauses: Pauses) -> None:
    """It asks less and less often; without queued writes it does not wait."""
    pauses.steps = iter([lambda: None, lambda: None, drain_all])
    assert Meter.behind.wait(meter.pk, timeout=60.0)
    assert pauses.seconds == [0.05, 0.1, 0.2]
    assert Meter.behind.wait(meter.pk)
    assert len(pauses.seconds) == 3


def test_a_task_waits_without_blocking_its_event_loop(meter: Meter) -> None:
    """Its async twin is named ``await_``, because ``await`` is a keyword."""
    assert not async_to_sync(Meter.behind.await_)(meter.pk, timeout=0.0)
    drain_all()
    assert async_to_sync(Meter.behind.await_)(meter.pk)


def test_the_time_to_wait_is_limited(meter: Meter, pauses: Pauses) -> None:
    """The result says that the writes are not in the database."""
    assert not Meter.behind.wait(meter.pk, timeout=0.0)
    assert pauses.seconds == []


def test_a_parked_write_ends_the_wait(meter: Meter) -> None:
    """Unless a person retries it, it never reaches the database."""
    key = Meter.behind.rows.row(meter.pk)[:-1].decode()
    ParkedWrite.objects.create(label="shop.meter", partition=0, batch=1, key=key, changes=NO_CHANGES)
    with pytest.raises(WriteBehindError, match="a write is parked"):
        Meter.behind.wait(meter.pk)


def test_writes_behind_one_that_is_retried_are_waited_for(meter: Meter, pauses: Pauses) -> None:
    """The row's oldest parked write decides: those behind it are retried with it."""
    key = Meter.behind.rows.row(meter.pk)[:-1].decode()
    drain_all()
    row = {"label": "shop.meter", "partition": 0, "key": key, "changes": NO_CHANGES}
    ParkedWrite.objects.create(**row, batch=1, retry_at=timezone.now())
    ParkedWrite.objects.create(**row, batch=2)
    pauses.steps = iter([lambda: None, ParkedWrite.objects.all().delete])
    assert Meter.behind.wait(meter.pk)
    assert len(pauses.seconds) == 2


def test_a_write_that_is_parked_between_the_two_looks_is_not_taken_for_drained(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look reads the queue and then the parked writes."""
    looks = 0

    def then_park(look: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal looks
            found, looks = look(*args), looks + 1
            if looks == 2:
                key = Meter.behind.rows.row(meter.pk)[:-1].decode()
                ParkedWrite.objects.create(
                    label="shop.meter", partition=0, batch=1, key=key, changes=NO_CHANGES
                )
                project_queue().nodes[0].call((b"FLUSHALL",))
            return found

        return run

    for name in ("_is_parked", "_batches"):
        monkeypatch.setattr(waiting, name, then_park(getattr(waiting, name)))
    with pytest.raises(WriteBehindError, match="a write is parked"):
        Meter.behind.wait(meter.pk)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1])
def test_the_time_to_wait_is_a_number_of_seconds(meter: Meter, timeout: float) -> None:
    """A wait that never ends, or that has no meaning, is refused."""
    with pytest.raises(ValueError, match="timeout is a number of seconds"):
        Meter.behind.wait(meter.pk, timeout=timeout)


def test_a_signal_is_sent_after_each_batch(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    """After the commit; the error of a receiver is logged and stops nothing."""
    seen: list[Any] = []

    def receive(sender: Any, **values: Any) -> None:
        seen.append((sender, values["batch"], values["rows"], values["using"]))
        raise ZeroDivisionError

    landed.connect(receive, sender=Meter)
    try:
        drain_all()
    finally:
        landed.disconnect(receive, sender=Meter)
    assert seen == [(Meter, 1, 1, "default")]
    assert "a receiver of landed failed" in caplog.text


def test_a_time_limit_in_a_receiver_ends_the_drain() -> None:
    """Django catches what a receiver raises, and the limit of a task may pass while one runs."""

    def receive(**_: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)

    meter = Meter.objects.create()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    landed.connect(receive, sender=Meter)
    try:
        with raising_handler(), pytest.raises(SoftLimitError):
            drain_all()
    finally:
        landed.disconnect(receive, sender=Meter)
    assert Meter.objects.get().count == 1
