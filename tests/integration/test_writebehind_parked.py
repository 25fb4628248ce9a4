"""Rows that Postgres refuses: they are parked, and a person retries or discards them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F

from cachebackend import uuid7, writebehind
from cachebackend.models import ParkedWrite
from cachebackend.writebehind.answers import Answers
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5, seen=MOMENT)


@pytest.fixture
def unique_tags() -> Iterator[list[Meter]]:
    """Eight rows of a table with a unique index on labels and a limit on levels."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE UNIQUE INDEX one_label ON shop_meter (label) WHERE label <> ''")
        cursor.execute("ALTER TABLE shop_meter ADD CONSTRAINT low CHECK (level < 100)")
    yield Meter.objects.bulk_create([Meter() for _ in range(8)])
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_meter DROP CONSTRAINT low")
        cursor.execute("DROP INDEX one_label")


def test_a_refused_row_is_parked_and_the_rest_is_applied(
    unique_tags: list[Meter], caplog: pytest.LogCaptureFixture
) -> None:
    """It is parked with its error; later writes of the row are parked behind it; a retry keeps the order."""
    rows = unique_tags
    with one_partition():
        Meter.behind.update_many(
            {row.pk: {"level": n, "count": F("count") + 1} for n, row in enumerate(rows)}
        )
        Meter.behind.update(rows[3].pk, level=200)
        [drained] = drain_all()
        assert (drained.rows, drained.parked) == (7, 1)
        [record] = [each for each in caplog.records if getattr(each, "event", "") == "writes_parked"]
        assert (record.partition, record.count) == ("shop.meter:0", 1)  # type: ignore[attr-defined]
        assert Meter.objects.filter(count=1).count() == 7
        Meter.behind.update(rows[3].pk, level=50)
        Meter.behind.update(rows[4].pk, level=44)
        [drained] = drain_all()
        assert (drained.rows, drained.parked) == (1, 1)
        first, second = ParkedWrite.objects.all()
        assert 'violates check constraint "low"' in first.error
        assert second.error == "Parked behind an earlier write of the row."
        report = command("parked", code=1)
        assert report["parked"] == 2
        assert report["writes"][0]["changes"] == "count add 1; level put 200"
        assert command("retry", "--all", code=1) == {"landed": 0, "missing": 0, "left": 2, "unanswered": {}}
        assert command("status", code=1)["parked"] == 2
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE shop_meter DROP CONSTRAINT low")
            cursor.execute("ALTER TABLE shop_meter ADD CONSTRAINT low CHECK (level < 1000)")
        assert command("retry", str(second.pk)) == {"landed": 2, "missing": 0, "left": 0, "unanswered": {}}
    row = Meter.objects.get(pk=rows[3].pk)
    assert (row.level, row.count) == (50, 1)
    assert command("status")["well"] is True


def test_the_table_of_parked_writes_shows_the_first_line_of_an_error(unique_tags: list[Meter]) -> None:
    """The other lines hold the whole row; ``--json`` shows them."""
    Meter.behind.update(unique_tags[0].pk, level=500)
    drain_all()
    [parked] = ParkedWrite.objects.all()
    assert "\nDETAIL:" in parked.error
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("writebehind", "parked", stdout=out)
    assert "DETAIL" not in out.getvalue()
    assert "constraint" in out.getvalue()
    assert command("parked", code=1)["writes"][0]["error"] == parked.error


def test_a_discarded_write_is_never_applied_and_unblocks_its_row(unique_tags: list[Meter]) -> None:
    """It is discarded by its number."""
    row = unique_tags[0]
    Meter.behind.update(row.pk, level=500)
    drain_all()
    [parked] = ParkedWrite.objects.all()
    with pytest.raises(CommandError, match="no parked write has the number 0"):
        call_command("writebehind", "discard", "0", "--yes")
    with pytest.raises(CommandError, match="say which"):
        call_command("writebehind", "discard")
    assert command("discard", str(parked.pk), "--yes") == {"discarded": 1, "unanswered": {}}
    Meter.behind.update(row.pk, level=5)
    [drained] = drain_all()
    assert drained.parked == 0
    assert Meter.objects.get(pk=row.pk).level == 5


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
def test_a_number_means_one_write_of_one_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two databases number their parked writes alike, so a number that both have needs the alias."""
    monkeypatch.setattr(writebehind, "all_databases", lambda: Answers(["default", "lite"]))
    for using in ("default", "lite"):
        ParkedWrite.objects.using(using).create(
            pk=71, label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no"
        )
    ParkedWrite.objects.using("lite").create(
        pk=72, label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no"
    )
    writes = command("parked", code=1)["writes"]
    assert [(write["database"], write["id"]) for write in writes] == [
        ("default", 71),
        ("lite", 71),
        ("lite", 72),
    ]
    with pytest.raises(CommandError, match="several databases: say default:71 or lite:71"):
        call_command("writebehind", "discard", "71", "--yes")
    with pytest.raises(CommandError, match="no parked write has the number default:72"):
        call_command("writebehind", "discard", "default:72", "--yes")
    assert command("discard", "lite:71", "72", "--yes") == {"discarded": 2, "unanswered": {}}
    assert list(ParkedWrite.objects.values_list("pk", flat=True)) == [71]
    assert not ParkedWrite.objects.using("lite").exists()


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_the_list_of_parked_writes_has_at_least_one(limit: str) -> None:
    """A smaller limit is refused."""
    with pytest.raises(CommandError, match=f"--limit must be at least 1, not {limit}"):
        call_command("writebehind", "parked", "--limit", limit)


@pytest.mark.parametrize("action", ["retry", "discard"])
@pytest.mark.parametrize(
    "choices",
    [["--all", "3"], ["--model", "shop.meter", "--all"], ["--model", "shop.meter", "5"]],
)
def test_parked_writes_are_chosen_in_one_way(action: str, choices: list[str]) -> None:
    """Two choices that contradict each other are refused."""
    message = "say which in one way only: numbers as `writebehind parked` lists them, --model, or --all"
    with pytest.raises(CommandError, match=message):
        call_command("writebehind", action, *choices)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_discard_without_a_terminal_needs_yes(
    unique_tags: list[Meter], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Nobody can be asked, so nothing is discarded; the message says what to add."""
    monkeypatch.setattr("sys.stdin", StringIO())
    Meter.behind.update(unique_tags[0].pk, level=500)
    drain_all()
    with pytest.raises(CommandError, match="1 parked writes would be discarded.*; add --yes to discard them"):
        call_command("writebehind", "discard", "--all", *words)
    assert ParkedWrite.objects.count() == 1


@pytest.mark.parametrize("action", ["parked", "retry", "discard"])
def test_a_model_that_does_not_exist_is_refused(meter: Meter, action: str) -> None:
    """The message names the models; a removed model counts while writes of it are parked."""
    with pytest.raises(CommandError, match="--model: 'nope' is not a model; .*shop.meter"):
        call_command("writebehind", action, "--model", "nope")
    ParkedWrite.objects.create(label="shop.gone", partition=0, batch=1, key="1", changes=b"", error="no")
    assert command("parked", "--model", "shop.Gone", code=1)["parked"] == 1
    assert command("parked", "--model", "shop.Meter")["parked"] == 0


def test_a_retry_of_a_row_that_is_gone_is_counted_as_missing(unique_tags: list[Meter]) -> None:
    """It is not parked any more, and is not reported as applied."""
    row = unique_tags[0]
    Meter.behind.update(row.pk, level=500)
    drain_all()
    Meter.objects.filter(pk=row.pk).delete()
    assert command("retry", "--all") == {"landed": 0, "missing": 1, "left": 0, "unanswered": {}}
    assert not ParkedWrite.objects.exists()


def test_the_later_writes_of_a_parked_row_are_composed(unique_tags: list[Meter]) -> None:
    """A row that is written all the time stays two parked writes, and its sum is exact."""
    row, start = unique_tags[0], datetime(2026, 5, 1, tzinfo=UTC)
    with one_partition():
        Meter.behind.update(row.pk, level=500, count=F("count") + 1)
        for day in range(5):
            drain_all()
            Meter.behind.update(row.pk, level=day, count=F("count") + 10, seen=start + timedelta(days=day))
        [drained] = drain_all()
        assert drained.parked == 1
        first, second = ParkedWrite.objects.all()
        assert "violates check" in first.error
        assert second.batch == 6
        assert command("retry", "--all", code=1) == {"landed": 0, "missing": 0, "left": 2, "unanswered": {}}
        assert command("discard", str(first.pk), "--yes") == {"discarded": 1, "unanswered": {}}
        Meter.behind.update(row.pk, count=F("count") + 100)
        drain_all()
        assert command("retry", "--all") == {"landed": 2, "missing": 0, "left": 0, "unanswered": {}}
    row.refresh_from_db()
    assert (row.level, row.count, row.seen) == (4, 150, start + timedelta(days=4))


def test_a_write_that_grew_since_it_was_read_is_not_discarded(unique_tags: list[Meter]) -> None:
    """A person discards what they have seen."""
    row = unique_tags[0]
    with one_partition():
        for count in (1, 10, 100):
            Meter.behind.update(row.pk, level=500, count=F("count") + count)
            if count == 100:
                seen = list(ParkedWrite.objects.all())
            drain_all()
    assert writebehind.discard(seen, "default") == 1
    [left] = ParkedWrite.objects.all()
    assert left.pk == seen[1].pk


def test_rows_of_a_batch_may_depend_on_each_other_in_any_order(unique_tags: list[Meter]) -> None:
    """If one row gives up a unique value and another takes it, neither is parked."""
    first, second = sorted(unique_tags, key=lambda row: row.pk)[:2]
    Meter.objects.filter(pk=second.pk).update(label="taken")
    with one_partition():
        Meter.behind.update_many({first.pk: {"label": "taken"}, second.pk: {"label": "other"}})
        [drained] = drain_all()
    assert drained.parked == 0
    assert {row.label for row in Meter.objects.filter(pk__in=[first.pk, second.pk])} == {"taken", "other"}


def test_a_reference_to_a_missing_row_is_parked(meter: Meter) -> None:
    """Although Postgres checks the constraint only at commit, and would refuse the whole batch."""
    other = Meter.objects.create()
    with one_partition():
        Meter.behind.update(meter.pk, tag=404)
        Meter.behind.update(other.pk, tag=Tag.objects.create(name="here"))
        [drained] = drain_all()
    assert (drained.rows, drained.parked, drained.waiting) == (1, 0, 1)
    assert Meter.objects.get(pk=other.pk).tag is not None


def test_the_creation_of_an_existing_row_is_parked(meter: Meter) -> None:
    """The creation is parked, and the row's later writes behind it."""
    Meter.behind.create(pk=meter.pk, level=1)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [drained] = drain_all()
    assert drained.parked == 1
    meter.refresh_from_db()
    assert (meter.level, meter.count) == (5, 0)
    assert ParkedWrite.objects.get().error == "A row with this key exists already, with other values."


def test_writes_behind_a_parked_write_are_not_read(unique_tags: list[Meter]) -> None:
    """Those writes will be parked too; a read before and after that returns the same row."""
    row = unique_tags[0]
    with one_partition():
        Meter.behind.update(row.pk, level=200)
        assert Meter.behind.get(row.pk).level == 200
        drain_all()
        Meter.behind.update(row.pk, level=7)
        assert Meter.behind.get(row.pk).level is None
        drain_all()
        assert Meter.behind.get(row.pk).level is None
        created = Meter.behind.create(pk=uuid7(), label="x")
        Meter.behind.create(pk=(taken := uuid7()), level=200)
        assert Meter.behind.get(taken).level == 200
        drain_all()
        Meter.behind.delete(taken)
        Meter.behind.create(pk=taken, label="y")
        assert list(Meter.behind.in_bulk([created.pk, taken])) == [created.pk]
