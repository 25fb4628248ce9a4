"""Mutants of the leases of ``lease_on_get``: each breaks one rule, and a named test must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from cachebackend import RingCache
from cachebackend.backend import remembered_leases
from cachebackend.backend.loaders import LoaderMethods
from cachebackend.backend.request_leases import LeasingCache
from cachebackend.backend.single_key import SingleKeyMethods
from cachebackend.node import Node
from cachebackend.protocol import MISSING
from tests.integration import test_leases
from tests.interleavings.aside import AsideReader, AsideReaderThatGetsAgain, AsideReaderThatSetsTwice
from tests.interleavings.scenario import Scenario
from tests.interleavings.search import explore
from tests.interleavings.writers import Writer
from tests.mutations.test_mutants import is_caught

Patch = pytest.MonkeyPatch


def a_second_get_takes_another_lease(patch: Patch) -> None:
    """The last miss counts, and not the first."""
    patch.setattr(LeasingCache, "_required", lambda *_: set())


def a_hit_ends_the_lease(patch: Patch) -> None:
    """The set after a hit is a plain one."""
    get = LeasingCache._get_and_lease

    def get_and_end(self: LeasingCache, key: bytes, default: Any, *, near: bool) -> Any:
        value = yield from get(self, key, default, near=near)
        if value is not MISSING:
            self._end_leases([key])
        return value

    patch.setattr(LeasingCache, "_get_and_lease", get_and_end)


def a_refused_set_ends_the_lease(patch: Patch) -> None:
    """The next set is a plain one."""
    patch.setattr(remembered_leases.RememberedLeases, "refuse", remembered_leases.RememberedLeases.end)


EXPLORED: dict[Callable[[Patch], None], Scenario] = {
    a_second_get_takes_another_lease: Scenario((AsideReaderThatGetsAgain, Writer)),
    a_hit_ends_the_lease: Scenario((AsideReaderThatGetsAgain, AsideReader, Writer)),
    a_refused_set_ends_the_lease: Scenario((AsideReaderThatSetsTwice, Writer)),
}


@pytest.mark.parametrize("mutant", EXPLORED, ids=lambda mutant: mutant.__name__)
def test_the_explorer_catches_the_mutant(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """With the mutant at least one schedule is wrong; without it none is."""
    assert explore((node, spare), EXPLORED[mutant]).wrong == []
    mutant(monkeypatch)
    assert explore((node, spare), EXPLORED[mutant], stop_at_first=True).wrong


class _OneForAll:
    """A variable that has one value in all contexts."""

    def __init__(self, _: str, default: Any) -> None:
        self._value = default

    def get(self) -> Any:
        return self._value

    def set(self, value: Any) -> None:
        self._value = value


def one_table_for_all_contexts(patch: Patch) -> None:
    """Tasks share their leases."""
    patch.setattr(remembered_leases, "ContextVar", _OneForAll)


def no_leases_of_tasks_that_have_ended(patch: Patch) -> None:
    """What a task has missed is forgotten with it."""
    patch.setattr(remembered_leases, "_oldest", lambda _: None)


def a_failed_add_ends_the_lease(patch: Patch) -> None:
    """The set after it is a plain one."""
    add = SingleKeyMethods._add

    def end_and_add(self: Any, key: Any, value: Any, timeout: Any, version: Any) -> Any:
        self._end_leases([self.key_bytes(key, version)])
        return add(self, key, value, timeout, version)

    patch.setattr(SingleKeyMethods, "_add", end_and_add)


def get_or_set_ends_the_lease(patch: Patch) -> None:
    """The set after it is a plain one."""
    patch.setattr(LoaderMethods, "_end_leases_of_loader", lambda self, keys, _: self._end_leases(keys))


def blocking(target: Any, name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(target, name)(*arguments, **options)


def tasks(caches: tuple[RingCache, RingCache]) -> None:
    test_leases.TestLeaseOnGet().test_a_task_keeps_its_own_lease(caches)


def ended_tasks(caches: tuple[RingCache, RingCache]) -> None:
    test_leases.TestLeaseOnGet().test_a_task_that_has_ended_leaves_its_leases_to_its_request(caches)


def added(caches: tuple[RingCache, RingCache]) -> None:
    test_leases.TestLeaseOnGet().test_a_write_that_stores_nothing_ends_no_lease(
        caches, blocking, "add", ["k", "v"], {}
    )


def loaded(caches: tuple[RingCache, RingCache]) -> None:
    test = test_leases.TestLeaseOnGet().test_the_first_miss_counts_until_a_write_is_stored
    test(caches, blocking, [("get_or_set", "k", "mine")], True)


CASES: dict[Callable[[Patch], None], Callable[[tuple[RingCache, RingCache]], None]] = {
    one_table_for_all_contexts: tasks,
    no_leases_of_tasks_that_have_ended: ended_tasks,
    a_failed_add_ends_the_lease: added,
    get_or_set_ends_the_lease: loaded,
}


@pytest.mark.usefixtures("empty_nodes")
@pytest.mark.parametrize("mutant", CASES, ids=lambda mutant: mutant.__name__)
def test_a_test_catches_the_mutant(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """The test is the one that states the rule."""
    mutant(monkeypatch)
    block = settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"lease_on_get": True}}
    assert is_caught(CASES[mutant], (RingCache(*block), RingCache(*block)))
