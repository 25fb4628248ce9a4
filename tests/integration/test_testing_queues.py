"""``cachebackend.testing``: write-behind in the tests of other projects."""

from __future__ import annotations

import unittest
from functools import partial

import pytest
from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.test import LiveServerTestCase, SimpleTestCase, TestCase, TransactionTestCase, override_settings

from cachebackend import uuid7, writebehind
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.testing import RingCacheTestMixin, drain_now, empty_queue
from cachebackend.writebehind import landed
from cachebackend.writebehind.queue import project_queue
from tests.shop.models import Meter, Tag

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


def run(*cases: type[unittest.TestCase]) -> unittest.TestResult:
    """Run the tests of cases with Django's code, as its test runner does."""
    result = unittest.TestResult()
    tests = [unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases]
    unittest.TestSuite(tests).run(result)
    return result


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("case", "count"), [(InTransactions, 4), (Committing, 3)])
def test_each_test_of_a_case_has_its_own_queue(case: type[unittest.TestCase], count: int) -> None:
    """In Django's test cases of both kinds, in any order."""
    result = run(case)
    assert (result.testsRun, result.errors, result.failures) == (count, [], [])


@override_settings(SITE_NAME="of the class")
class OverridingAClass(RingCacheTestMixin, TestCase):
    """Django overrides settings for the class, and restores them after it."""

    __test__ = False

    @classmethod
    def setUpTestData(cls) -> None:
        assert settings.SITE_NAME == "of the class"

    def test_the_setting(self) -> None:
        assert settings.SITE_NAME == "of the class"


class Served(RingCacheTestMixin, LiveServerTestCase):
    """Django adds the server's host to the allowed hosts of the class."""

    __test__ = False

    def test_the_hosts(self) -> None:
        assert "localhost" in settings.ALLOWED_HOSTS


class WithoutDatabase(RingCacheTestMixin, SimpleTestCase):
    """A test that may not query a database."""

    __test__ = False

    def test_the_cache(self) -> None:
        cache.set("k", 1)
        assert cache.get("k") == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("case", [OverridingAClass, Served, WithoutDatabase])
def test_settings_of_a_class_are_in_force_and_end_with_it(case: type[unittest.TestCase]) -> None:
    """The mixin's own settings end too: the next class has those of the project."""
    before = {name: getattr(settings, name, None) for name in ("CACHES", "WRITE_BEHIND", "SITE_NAME")}
    result = run(case)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert {name: getattr(settings, name, None) for name in before} == before


class OfOneDatabase(Counting, TestCase):
    """A test that may query one of the databases with write-behind."""

    databases = frozenset({"default"})


@pytest.mark.django_db(transaction=True)
def test_a_case_need_not_declare_databases_that_it_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain sends queries only to the databases of what is queued."""
    monkeypatch.setattr(writebehind, "databases", lambda: ["default", "lite"])
    result = run(OfOneDatabase)
    assert (result.testsRun, result.errors, result.failures) == (3, [], [])


class WithRefusedData(RingCacheTestMixin, TestCase):
    """What it queues for all tests cannot be written."""

    __test__ = False

    @classmethod
    def setUpTestData(cls) -> None:
        Meter.behind.create(pk=uuid7(), tag_id=999)

    def test_it(self) -> None:
        """Not reached."""


@pytest.mark.django_db(transaction=True)
def test_refused_data_of_a_class_leave_no_transaction_open() -> None:
    """The class is an error, and the next classes find the database as it was."""
    result = run(WithRefusedData, Committing)
    [(_, text)] = result.errors
    assert "could not write everything" in text
    assert (result.testsRun, result.failures) == (3, [])
    assert not connection.in_atomic_block


@pytest.mark.django_db(transaction=True)
def test_a_drain_needs_a_queue_of_the_test() -> None:
    """In a queue of several tests, a test that is rolled back takes the checkpoint of its batches with it."""
    with pytest.raises(ImproperlyConfigured, match="RingCacheTestMixin"):
        drain_now()


@pytest.mark.django_db
def test_a_drain_inside_a_block_of_the_test_is_refused() -> None:
    """A worker drains after the commit. In the transaction of a ``TestCase`` a drain writes as usual."""
    meter = Meter.objects.create()
    with empty_queue():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with transaction.atomic(), pytest.raises(ImproperlyConfigured, match="after the block"):
            drain_now()
        drain_now()
    assert Meter.objects.get().count == 1


def test_an_empty_queue_that_is_not_used_sends_nothing() -> None:
    """So a node that is away costs the other tests no time."""
    with empty_queue(nodes=["redis://127.0.0.1:1?name=away"]):
        pass


SETTINGS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "enable_hashjoin",
)


def settings_of_session() -> list[str]:
    """The settings of Postgres that a drain changes."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join('current_setting(%s)' for _ in SETTINGS)}", SETTINGS)
        return list(cursor.fetchone())


class AfterADrain(RingCacheTestMixin, TestCase):
    """Tests whose first one drains; what a drain sets would last until the class ends."""

    __test__ = False
    before: list[str]

    @classmethod
    def setUpTestData(cls) -> None:
        cls.before = settings_of_session()

    def test_1_a_drain_restores_the_settings(self) -> None:
        meter = Meter.objects.create()
        Meter.behind.update(meter.pk, count=F("count") + 1)
        Meter.behind.create(pk=uuid7(), tag_id=999)
        with pytest.raises(AssertionError):
            drain_now()
        assert settings_of_session() == self.before

    def test_2_a_child_may_come_before_its_parent(self) -> None:
        Meter.objects.create(tag_id=77)
        Tag.objects.create(pk=77, name="late")

    def test_3_also_after_a_drain_of_the_same_test(self) -> None:
        meter = Meter.objects.create()
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_now()
        Meter.objects.create(tag_id=77)
        Tag.objects.create(pk=77, name="late")

    def test_4_a_constraint_that_is_not_deferred_at_first_is_not_afterwards(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE one (id int UNIQUE DEFERRABLE) ON COMMIT DROP")
            meter = Meter.objects.create()
            Meter.behind.update(meter.pk, count=F("count") + 1)
            drain_now()
            with pytest.raises(IntegrityError), transaction.atomic():
                cursor.execute("INSERT INTO one VALUES (1), (1)")

    def test_4_a_constraint_in_a_schema_that_the_role_may_not_use_is_left_alone(self) -> None:
        meter = Meter.objects.create()
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA private")
            cursor.execute("CREATE TABLE private.one (id int UNIQUE DEFERRABLE)")
            cursor.execute("CREATE ROLE ringcache_site")
            cursor.execute("GRANT USAGE ON SCHEMA public TO ringcache_site")
            cursor.execute(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ringcache_site"
            )
            cursor.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ringcache_site")
            cursor.execute("SET LOCAL ROLE ringcache_site")
            Meter.behind.update(meter.pk, count=F("count") + 1)
            drain_now()
            cursor.execute("RESET ROLE")
        assert Meter.objects.get(pk=meter.pk).count == 1

    def test_5_a_row_of_the_test_is_not_taken_for_a_queued_one(self) -> None:
        meter = Meter.objects.create(tag_id=77)
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(IntegrityError, match="shop_tag") as raised:
            drain_now()
        assert "before write-behind" in raised.value.__notes__[0]
        Tag.objects.create(pk=77, name="late")
        drain_now()
        assert Meter.objects.get(pk=meter.pk).count == 1

    def test_6_the_signal_is_sent(self) -> None:
        meter = Meter.objects.create()
        received: list[int] = []
        receiver = partial(lambda received, **sent: received.append(sent["rows"]), received)
        landed.connect(receiver)
        try:
            Meter.behind.update(meter.pk, count=F("count") + 1)
            drain_now()
        finally:
            landed.disconnect(receiver)
        assert received == [1]


@pytest.mark.django_db(transaction=True)
def test_a_drain_leaves_the_transaction_of_a_test_as_it_was() -> None:
    """Its limits, its constraints and those of the next tests of the class; ``landed`` is sent."""
    result = run(AfterADrain)
    assert (result.errors, result.failures, result.testsRun) == ([], [], 7)
