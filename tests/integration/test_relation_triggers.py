"""Triggers on the many-to-many tables of models with triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.core.cache import cache
from django.db import connection, transaction
from django.db.models.signals import post_migrate

from cachebackend import invalidation
from cachebackend.invalidation.trigger_rows import has_triggers
from cachebackend.models import OutboxRow
from tests.integration.results import Pages
from tests.zoo.models import Post, Sample, Topic

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
THROUGH: Any = Sample.topics.through
TABLE = THROUGH._meta.db_table
Program = psycopg.Connection[Any]


@pytest.fixture
def topics() -> list[Topic]:
    """Two topics of one sample each."""
    topics = [Topic.objects.create(name=name) for name in ("tea", "wine")]
    for topic in topics:
        Sample.objects.create(name=f"about {topic.name}").topics.add(topic)
    invalidation.relay()
    return topics


@pytest.fixture
def pages(topics: list[Topic]) -> Pages:
    """The samples of each topic, by the relation."""
    pages = Pages(
        {
            topic.name: lambda pk=topic.pk: (  # type: ignore[misc]
                Sample.cached.filter(topics=pk).order_by("pk").values_list("pk", flat=True)
            )
            for topic in topics
        }
    )
    pages.read()
    assert not pages.loaded()
    return pages


def test_the_tables_of_relations_have_triggers() -> None:
    """Of models with triggers, and of no other models."""
    assert has_triggers(THROUGH)
    assert not has_triggers(Post.labels.through)


def test_raw_sql_on_the_table_of_a_relation(topics: list[Topic], pages: Pages, program: Program) -> None:
    """It makes the results wrong that have its values."""
    sample = Sample.objects.get(name="about wine")
    program.execute(f"INSERT INTO {TABLE} (sample_id, topic_id) VALUES (%s, %s)", [sample.pk, topics[0].pk])
    assert [row.label for row in OutboxRow.objects.all()] == ["zoo.sample_topics"]
    invalidation.relay()
    assert pages.loaded() == {"tea"}
    program.execute(f"DELETE FROM {TABLE} WHERE topic_id = %s", [topics[1].pk])
    invalidation.relay()
    assert pages.loaded() == {"wine"}


def test_a_relation_that_django_changes(topics: list[Topic], pages: Pages) -> None:
    """Its triggers name the same rows, and nothing more is wrong. Nothing is left to the relay."""
    Sample.objects.get(name="about wine").topics.add(topics[0])
    assert pages.loaded() == {"tea"}
    assert not OutboxRow.objects.exists()


def test_raw_sql_deletes_values_that_have_an_end_as_a_tag(topics: list[Topic]) -> None:
    """As a change by Django does."""
    sample = Sample.objects.get(name="about wine")
    cache.get_or_set("page", lambda: "old", tags=[topics[0]])
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TABLE} (sample_id, topic_id) VALUES (%s, %s)", [sample.pk, topics[0].pk]
        )
    assert cache.get("page") is None


def installed() -> set[tuple[str, bool]]:
    """Return the operations for which the table has a trigger, and whether it is that of this release."""
    statuses = {each.name: each.get_installation_status(THROUGH)[0] for each in THROUGH._meta.triggers}
    return {(name, status == "INSTALLED") for name, status in statuses.items() if status != "UNINSTALLED"}


OPERATIONS = {f"ringcache_{name}" for name in ("insert", "update", "delete", "truncate")}


@pytest.fixture
def without_triggers() -> Iterator[None]:
    """The table of the relation has no triggers."""
    for trigger in THROUGH._meta.triggers:
        trigger.uninstall(THROUGH)
    assert installed() == set()
    yield
    migrated([])
    assert installed() == {(name, True) for name in OPERATIONS}


def migrated(plan: list[Any] | None, using: str = "default", label: str = "zoo") -> None:
    """Send the signal that ends ``migrate``; without a plan, ``flush``."""
    app_config = apps.get_app_config(label)
    post_migrate.send(app_config, app_config=app_config, using=using, plan=plan, verbosity=0)


@pytest.mark.usefixtures("without_triggers")
def test_migrate_creates_the_triggers() -> None:
    """Also if there are no migrations to run. Other apps, other databases and ``flush`` create none."""
    migrated(None)
    migrated([], "lite")
    migrated([], label="shop")
    assert installed() == set()
    migrated([])
    assert installed() == {(name, True) for name in OPERATIONS}


@pytest.mark.usefixtures("without_triggers")
def test_migrate_replaces_the_triggers_of_an_earlier_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their SQL has another hash."""
    with monkeypatch.context() as patch:
        patch.setattr("cachebackend.invalidation.triggers.CHANNEL", "another_channel")
        migrated([])
    assert installed() == {(name, False) for name in OPERATIONS}
    migrated([])
    assert installed() == {(name, True) for name in OPERATIONS}


@pytest.mark.usefixtures("without_triggers")
def test_a_table_that_does_not_exist_has_no_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after ``migrate zoo zero``."""
    with monkeypatch.context() as patch:
        patch.setattr(THROUGH._meta, "db_table", "zoo_nothing")
        migrated([])
    assert installed() == set()
