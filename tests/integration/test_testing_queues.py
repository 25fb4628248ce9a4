"""``cachebackend.testing``: write-behind in the tests of other projects."""

from __future__ import annotations

import unittest

import pytest
from django.core.cache import cache
from django.db.models import F
from django.test import TestCase, TransactionTestCase

from cachebackend import uuid7, writebehind
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.testing import RingCacheTestMixin, drain_now, empty_queue
from cachebackend.writebehind.queue import project_queue
from tests.shop.models import Meter

pytestmark = pytest.mark.usefixtures("empty_nodes")


@pytest.mark.django_db(transaction=True)
def test_an_empty_queue_sees_nothing_and_leaves_nothing() -> None:
    """A worker that drains the project's own queue does not see what the block queues, nor the reverse."""
    meter = Meter.objects.create()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    checkpoints = set(WriteBehindCheckpoint.objects.values_list("incarnation"))
    with empty_queue():
        assert writebehind.dirty_partitions() == []
        Meter.behind.update(meter.pk, count=F("count") + 10)
        drain_now()
        assert Meter.objects.get().count == 10
        Meter.behind.update(meter.pk, count=F("count") + 100)
        prefix = project_queue().options.prefix
    assert set(WriteBehindCheckpoint.objects.values_list("incarnation")) == checkpoints
    assert Meter.behind.get(meter.pk).count == 11
    [node] = project_queue().nodes
    assert node.call((b"KEYS", f"{prefix}*".encode())) == []


@pytest.mark.django_db(transaction=True)
def test_a_write_that_cannot_be_drained_fails_the_test() -> None:
    """With the database's error: a parked write would go unnoticed."""
    with empty_queue():
        Meter.behind.create(pk=uuid7(), tag_id=999)
        with pytest.raises(AssertionError, match=r"could not write everything: shop\.meter .*shop_tag"):
            drain_now()


class Counting(RingCacheTestMixin):
    """Tests that would fail if they shared a queue, a checkpoint or a cached key."""

    __test__ = False

    def check_a_count(self) -> None:
        assert cache.get("k") is None
        self.ring.set("k", 1)
        meter = Meter.objects.create()
        for expected in (1, 2):
            Meter.behind.update(meter.pk, count=F("count") + 1)
            assert Meter.behind.get(meter.pk).count == expected
            drain_now()
            assert Meter.objects.get(pk=meter.pk).count == expected
        Meter.behind.update(meter.pk, count=F("count") + 1)

    def test_one(self) -> None:
        self.check_a_count()

    def test_another(self) -> None:
        self.check_a_count()

    def test_a_third(self) -> None:
        self.check_a_count()


class InTransactions(Counting, TestCase):
    """Each test is rolled back, with its checkpoints."""

    meter: Meter

    @classmethod
    def setUpTestData(cls) -> None:
        cls.meter = Meter.objects.create()
        Meter.behind.update(cls.meter.pk, count=F("count") + 5)

    def test_data_is_drained(self) -> None:
        assert Meter.objects.get(pk=self.meter.pk).count == 5


class Committing(Counting, TransactionTestCase):
    """Each test commits, and its tables are emptied after it."""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("case", "count"), [(InTransactions, 4), (Committing, 3)])
def test_each_test_of_a_case_has_its_own_queue(case: type[unittest.TestCase], count: int) -> None:
    """In Django's test cases of both kinds, in any order."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert (result.testsRun, result.errors, result.failures) == (count, [], [])
