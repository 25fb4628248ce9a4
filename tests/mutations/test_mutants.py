"""Mutants of the protocol: each removes one line that a guarantee depends on, and a named test must fail.

A mutant is a patch of the real code. It is caught if its named test fails with the patch. The same
test passes without the patch where it is defined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection

from cachebackend import RingCache, protocol
from cachebackend.backend import fill_rules
from cachebackend.codec import Kind, tags_of_block
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation import outbox, pending_deletes, transaction_deletes, writes
from cachebackend.managers import reads
from cachebackend.node import Node
from cachebackend.protocol import FillOptions
from cachebackend.protocol.cache import compare_and_set, freshness, tags
from cachebackend.protocol.cache import lease as lease_module
from cachebackend.protocol.cache import load as load_module
from cachebackend.protocol.cache import quarantine as quarantine_module
from cachebackend.protocol.cache.tokens import Tokens
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.integration import test_endless_records, test_models, test_outbox, test_strict
from tests.interleavings.readers import Reader, ReaderOfTwo
from tests.interleavings.scenario import Scenario
from tests.interleavings.search import explore
from tests.interleavings.world import KEY
from tests.interleavings.writers import CrashingWriter, StrictWriter, Writer
from tests.mutations.scripts import change_script

Patch = pytest.MonkeyPatch
OLD = ((b"SET", KEY, b"0", b"PX", b"60000"),)
LAPSE = (("lapse", 1),)


# Mutants that the explorer must catch


def fill_with_plain_set(patch: Patch) -> None:
    """A fill does not compare."""

    def request(self: compare_and_set.CompareAndSet, _: Any) -> Any:
        return self.node, (b"SET", self.key, self.new, b"PX", b"%d" % max(self.ttl_ms, 1000))

    patch.setattr(compare_and_set.CompareAndSet, "request", request)


def fill_under_any_record(patch: Patch) -> None:
    """The fill requires that some record exists, not that its own lease does."""

    def request(self: compare_and_set.CompareAndSet, _: Any) -> Any:
        return self.node, (b"SET", self.key, self.new, b"XX", b"PX", b"%d" % max(self.ttl_ms, 1000))

    patch.setattr(compare_and_set.CompareAndSet, "request", request)


def no_delete_after_the_commit(patch: Patch) -> None:
    """The writer's delete reaches another key."""
    delete_many = protocol.delete_many
    patch.setattr(
        protocol, "delete_many", lambda context, _, **how: delete_many(context, [b"another"], **how)
    )


def every_token_the_same(patch: Patch) -> None:
    """All leases have the same token: the old holder of an expired lease can fill under the next one."""
    patch.setattr(lease_module, "_kind", lambda _: None)
    from tests.interleavings.clocks import StepClock

    patch.setattr(StepClock, "token", lambda _: b"the same for all")


def quarantine_not_placed(patch: Patch) -> None:
    """The strict writer commits without a quarantine."""

    def nothing(*_: Any) -> Any:
        return
        yield

    patch.setattr(protocol, "quarantine", nothing)


def quarantine_ignored_by_readers(patch: Patch) -> None:
    """A reader replaces a quarantine by its lease, as if it were an unreadable record."""
    kind_of = lease_module._kind
    patch.setattr(
        lease_module, "_kind", lambda record: None if kind_of(record) is Kind.QUARANTINE else kind_of(record)
    )


def tokens_taken_after_the_load(patch: Patch) -> None:
    """The value is stored with the token that its tag has at the fill, not before the load."""
    load_and_fill = load_module.load_and_fill

    def late(context: Any, loading: Any, fill_options: Any, tokens: Any) -> Any:
        inner = load_and_fill(context, loading, fill_options, present)
        effect = next(inner)
        outcome = yield effect
        present.required = tokens.required
        yield from tags.take_missing_tokens(context, present)
        try:
            while True:
                effect = inner.send(outcome)
                outcome = yield effect
        except StopIteration as end:
            return end.value

    present = Tokens()
    patch.setattr(load_module, "load_and_fill", late)


def tags_not_compared(patch: Patch) -> None:
    """A value is served although its tag has a new token."""
    patch.setattr(freshness, "_is_valid", lambda *_: True)


def a_value_without_the_tag_served(patch: Patch) -> None:
    """A value is served although it was stored without a tag that the reader asks for."""

    def compare(tokens: Tokens, block: bytes) -> bool:
        return all(tokens._tokens.get(tag) == token for tag, token in tags_of_block(block).items())

    patch.setattr(Tokens, "_compare", compare)


TAGGED = Scenario((Reader, Reader, Writer), fill_options=FillOptions(60_000, tags=(b"tag",)), by_tag=True)
#: A strict writer whose node may fail, also after the commit.
CUT_OFF = Scenario((ReaderOfTwo, StrictWriter), OLD, (("fail0", 1),))
EXPLORED: dict[Callable[[Patch], None], Scenario] = {
    fill_with_plain_set: Scenario((Reader, Writer)),
    fill_under_any_record: Scenario((Reader, Reader, Writer)),
    no_delete_after_the_commit: Scenario((Reader, Writer)),
    every_token_the_same: Scenario((Reader, Reader, Writer), (), LAPSE),
    quarantine_not_placed: CUT_OFF,
    quarantine_ignored_by_readers: CUT_OFF,
    tokens_taken_after_the_load: TAGGED,
    tags_not_compared: TAGGED,
    a_value_without_the_tag_served: replace(TAGGED, before=OLD),
}


#: Scenarios in which no schedule is wrong without a mutant; several mutants share one.
VERIFIED: set[Scenario] = set()


@pytest.mark.parametrize("mutant", EXPLORED, ids=lambda mutant: mutant.__name__)
def test_the_explorer_catches_the_mutant(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """With the mutant at least one schedule is wrong; without it none is."""
    scenario = EXPLORED[mutant]
    if scenario not in VERIFIED:
        assert explore((node, spare), scenario).wrong == []
        VERIFIED.add(scenario)
    mutant(monkeypatch)
    assert explore((node, spare), scenario, stop_at_first=True).wrong
    assert explore((node, spare), scenario.read_directly(), stop_at_first=True).wrong


def test_the_explorer_catches_a_crash_without_an_outbox_row(
    node: Node, spare: Node, monkeypatch: Patch
) -> None:
    """If the outbox row is lost at the commit and the writer crashes, the old value stays cached."""
    from tests.interleavings.world import World

    scenario = Scenario((Reader, CrashingWriter), OLD)
    assert explore((node, spare), scenario).wrong == []
    make = World.make

    def forget(self: World, move: str) -> None:
        make(self, move)
        self.outbox.rows.clear()

    monkeypatch.setattr(World, "make", forget)
    assert explore((node, spare), scenario, stop_at_first=True).wrong


# Mutants that tests of the whole stack must catch


@pytest.fixture
def article() -> Article:
    """A row."""
    return Article.objects.create(slug="first", title="First")


def is_caught(test: Callable[..., None], *arguments: Any) -> bool:
    """Return whether a test fails, by an assertion or by an exception that it did not expect."""
    try:
        test(*arguments)
    except (AssertionError, pytest.fail.Exception):
        return True
    finally:
        if connection.in_atomic_block:
            connection.rollback()
    return False


needs_the_stack = pytest.mark.usefixtures("empty_nodes")


@needs_the_stack
@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
class TestStack:
    """Each mutant, and the test that catches it."""

    def test_quarantine_deleted_by_a_reader(self, ring_cache: RingCache, monkeypatch: Patch) -> None:
        """A reader deletes a quarantine that it meets, although it expires: it is a writer's."""
        endless = b"redis.call('PTTL', KEYS[1]) == -1"
        change_script(monkeypatch, lease_module, "_DELETE_ENDLESS", endless, b"true")
        test: Callable[..., None] = test_endless_records.test_a_reader_leaves_it_if_it_expires
        assert is_caught(test, ring_cache, b"Q" + bytes(16))

    def test_delete_before_the_commit(
        self, article: Article, ring_cache: RingCache, monkeypatch: Patch
    ) -> None:
        """Keys are deleted at the change, before the commit."""
        add_changed = pending_deletes.PendingDeletes.add_changed

        def at_once(self: pending_deletes.PendingDeletes, dependent: Any, rows: Any) -> None:
            add_changed(self, dependent, rows)
            self.delete()

        monkeypatch.setattr(pending_deletes.PendingDeletes, "add_changed", at_once)
        assert is_caught(test_models.test_nothing_is_deleted_before_the_commit, article, ring_cache)

    def test_fill_inside_a_transaction_that_wrote(
        self, article: Article, ring_cache: RingCache, monkeypatch: Patch
    ) -> None:
        """A transaction reads rows that it has written through the cache."""
        monkeypatch.setattr(reads, "changed_keys", lambda *_: set())
        assert is_caught(test_models.test_nothing_is_deleted_before_the_commit, article, ring_cache)

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_fill_from_a_snapshot(self, article: Article, monkeypatch: Patch, level: str) -> None:
        """The isolation level is not checked."""
        monkeypatch.setattr(fill_rules, "_reads_committed", lambda _: True)
        assert is_caught(test_strict.test_a_snapshot_fills_nothing, Article.cached, article, level)

    def test_quarantine_not_confirmed(self, article: Article, services: Services, monkeypatch: Patch) -> None:
        """A strict write commits although its node did not answer."""
        quarantine = quarantine_module.quarantine

        def unconfirmed(*arguments: Any) -> Any:
            try:
                yield from quarantine(*arguments)
            except NodeUnavailableError:
                return

        monkeypatch.setattr(protocol, "quarantine", unconfirmed)
        monkeypatch.setattr(Article.cached, "is_strict", True)
        test = test_strict.test_a_strict_write_whose_node_is_down_fails_and_changes_nothing
        assert is_caught(test, Article.cached, article, services, False)

    def test_outbox_row_deleted_before_the_nodes_confirmed(
        self, article: Article, monkeypatch: Patch
    ) -> None:
        """A crash between the two leaves no pending delete."""
        delete = pending_deletes.PendingDeletes.delete

        def delete_row_first(self: Any) -> Any:
            outbox.delete_rows("default", *getattr(self, "_outbox_rows", []))
            return delete(self)

        Article.cached.get(slug="first")
        monkeypatch.setattr(pending_deletes.PendingDeletes, "delete", delete_row_first)
        assert is_caught(
            test_outbox.test_the_row_is_deleted_only_after_the_nodes_confirmed, article, monkeypatch
        )

    def test_no_outbox_row(self, article: Article, monkeypatch: Patch) -> None:
        """A delete that a node did not confirm is stored nowhere."""
        monkeypatch.setattr(transaction_deletes, "write_row", lambda *_, **__: None)
        assert is_caught(test_outbox.test_a_transaction_writes_one_outbox_row, article)

    def test_update_without_invalidation(self, article: Article, monkeypatch: Patch) -> None:
        """``QuerySet.update`` deletes no keys."""
        unseen = lambda write, result_type: write._method(write._compiler, result_type)  # noqa: E731  # one line
        monkeypatch.setattr(writes.Write, "update", unseen)
        assert is_caught(
            test_models.test_every_way_to_change_a_row_invalidates_it, article, test_models.CHANGES["update"]
        )
