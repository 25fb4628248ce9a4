"""Mutants of the order of deletes, and of what loaders read; the explorer must find a stale page for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cachebackend.invalidation import deletes, pending_deletes
from cachebackend.near import cache as near_cache
from cachebackend.node import Node
from tests.interleavings.pages import PageReader, PageScenario, PageWriter, Relay
from tests.interleavings.relaying import relay_module
from tests.interleavings.search import explore
from tests.interleavings.world import KEY

Patch = pytest.MonkeyPatch
OLD = ((b"SET", KEY, b"0", b"PX", b"60000"),)
values_and_tags = deletes.values_and_tags


def tags_first(patch: Patch) -> None:
    """The writer deletes the tag, and then the row's key."""
    patch.setattr(pending_deletes, "values_and_tags", lambda keys: values_and_tags(keys)[::-1])


def one_scatter(patch: Patch) -> None:
    """The writer sends the deletes of the row's key and of the tag at once."""
    patch.setattr(pending_deletes, "values_and_tags", lambda keys: (keys, {}))


def one_scatter_of_the_relay(patch: Patch) -> None:
    """The relay sends the deletes of values and tags at once."""
    patch.setattr(relay_module, "values_and_tags", lambda keys: (keys, {}))
    patch.setattr(relay_module, "delete_keys", deletes.delete_together)


def tags_confirmed_before_their_values(patch: Patch) -> None:
    """The relay does not delete a tag again that its writer has deleted before the value was confirmed."""
    patch.setattr(relay_module, "values_and_tags", lambda keys: (values_and_tags(keys)[0], {}))


def copy_read_by_a_loader(patch: Patch) -> None:
    """A loader reads the copies of its process."""
    patch.setattr(near_cache, "in_loader", lambda: False)


PAGE = PageScenario((PageReader, PageWriter), OLD)
COPY = PageScenario((PageReader, PageWriter), OLD, has_copies=True)
CUT_OFF = PageScenario((PageReader, PageWriter, Relay), OLD, is_cut_off=True)
MUTANTS: dict[Callable[[Patch], None], PageScenario] = {
    tags_first: PAGE,
    one_scatter: PAGE,
    one_scatter_of_the_relay: CUT_OFF,
    tags_confirmed_before_their_values: CUT_OFF,
    copy_read_by_a_loader: COPY,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_explorer_finds_a_stale_page(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """With the mutant at least one schedule is wrong; ``test_schedules`` proves that without it none is."""
    mutant(monkeypatch)
    wrong = explore((node, spare), MUTANTS[mutant], stop_at_first=True).wrong
    assert wrong
    assert "page" in wrong[0][0]
