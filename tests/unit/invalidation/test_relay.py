"""What a page of outbox rows sends, in which order, and which rows it confirms."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import pytest

import cachebackend.invalidation
from cachebackend.invalidation.outbox import INTENT_SECONDS, new_row
from cachebackend.invalidation.watched import KeysByAlias
from cachebackend.models import OutboxRow

#: The package has a function of the module's name.
relay: Any = sys.modules[f"{cachebackend.invalidation.__name__}.relay"]
V1, V2, T, T1, T2 = b"value 1", b"value 2", b"tag\xff", b"tag 1\xff", b"tag 2\xff"


class Nodes:
    """Stands for the nodes: records what is sent, and refuses the keys and nodes of ``refused``."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.refused: set[bytes | str] = set()

    def delete(self, keys: KeysByAlias) -> KeysByAlias:
        group = keys.get("default", set())
        self.sent.append(group)
        missed = {key for key in group if key in self.refused}
        return {"default": missed} if missed else {}

    def clear_node(self, alias: str, endpoint: str) -> bool:
        self.sent.append(endpoint)
        return endpoint not in self.refused

    def clear_tags(self) -> set[tuple[str, str]]:
        self.sent.append("tags")
        return {("default", name) for name in self.refused if isinstance(name, str)}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """All nodes of the only alias."""
    nodes = Nodes()
    monkeypatch.setattr(relay, "delete_keys", nodes.delete)
    monkeypatch.setattr(relay, "clear_node", nodes.clear_node)
    monkeypatch.setattr(relay, "clear_tags", nodes.clear_tags)
    monkeypatch.setattr(relay, "nodes_to_clear", lambda _, unconfirmed: ([], unconfirmed))
    return nodes


def row(pk: int, *keys: bytes, node: str = "", is_intent: bool = False, age: float = 5.0) -> Any:
    made: Any = new_row({"default": keys}, node=node)
    made.is_intent, made.size, made.packed_keys, made.fault = is_intent, len(made.keys), made.keys, ""
    made.pk, made.age = pk, timedelta(seconds=age)
    return made


def confirmed(rows: list[OutboxRow], early_tags: set[int] | None = None) -> list[int]:
    page = relay._Page(rows, set() if early_tags is None else early_tags)
    return [each.pk for each in page.confirmed_rows()]


def test_the_values_of_all_rows_are_deleted_before_any_tag(nodes: Nodes) -> None:
    """In one page a tag of a row never precedes a value of another row."""
    assert confirmed([row(1, V1, T, T1), row(2, V2, T, T2)]) == [1, 2]
    assert nodes.sent == [{V1, V2}, {T, T1, T2}]


def test_tags_do_not_count_before_the_values_of_their_row(nodes: Nodes) -> None:
    """A row with an unconfirmed value stays, with its tags; so does a row with an unconfirmed tag."""
    nodes.refused = {V1, T2}
    assert confirmed([row(1, V1, T1), row(2, V2, T2), row(3, T)]) == [3]


def test_the_tags_of_an_unconfirmed_value_are_deleted_once_and_again_after_it(nodes: Nodes) -> None:
    """A node that is down for long does not make its pages misses in every round."""
    early: set[int] = set()
    nodes.refused = {V1}
    for sent in ({T1}, set()):
        nodes.sent.clear()
        assert confirmed([row(1, V1, T1)], early) == []
        assert nodes.sent == [{V1}, sent]
    nodes.refused = set()
    nodes.sent.clear()
    assert confirmed([row(1, V1, T1)], early) == [1]
    assert nodes.sent == [{V1}, {T1}]


def test_an_early_delete_of_a_tag_is_repeated_until_it_is_confirmed(nodes: Nodes) -> None:
    """Otherwise the pages that existed before the change would stay until the value's node is back."""
    early: set[int] = set()
    nodes.refused = {V1, T1}
    assert confirmed([row(1, V1, T1)], early) == []
    nodes.refused = {V1}
    assert confirmed([row(1, V1, T1)], early) == []
    assert nodes.sent == [{V1}, {T1}, {V1}, {T1}]


def test_a_tag_that_rows_share_is_deleted_after_the_values_that_are_confirmed(nodes: Nodes) -> None:
    """The row that has an unconfirmed value keeps the tag pending."""
    nodes.refused = {V1}
    early = {1}
    assert confirmed([row(1, V1, T), row(2, V2, T)], early) == [2]
    assert nodes.sent == [{V1, V2}, {T}]


def test_only_keys_of_rows_are_counted(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of rows is one key, and more results than that may be unconfirmed."""
    results = {b"result %d" % number for number in range(9)}
    monkeypatch.setattr(relay, "delete_keys", lambda keys: {"default": results | {V1}} if keys else {})
    assert relay._Page([row(1, V1, V2)], set()).deleted == 1


def test_all_tags_are_deleted_after_a_node_was_cleared(nodes: Nodes) -> None:
    """Which of them have pages that were made from the node's old values is not known."""
    page = relay._Page([row(1, node="a"), row(2, V1)], set())
    assert [each.pk for each in page.confirmed_rows()] == [2, 1]
    assert nodes.sent == [{V1}, "a", "tags", set()]
    assert page.to_clear == set()


def test_a_node_that_does_not_confirm_the_delete_of_all_tags_must_be_cleared_itself(nodes: Nodes) -> None:
    """A row for this node replaces the row of the node that was cleared."""
    nodes.refused = {"b"}
    page = relay._Page([row(1, node="a"), row(2, node="b")], set())
    assert [each.pk for each in page.confirmed_rows()] == [1]
    assert page.to_clear == {("default", "b")}


def test_no_tags_are_deleted_for_a_node_that_could_not_be_cleared(nodes: Nodes) -> None:
    """It may still serve old values."""
    nodes.refused = {"a"}
    assert confirmed([row(1, node="a")]) == []
    assert "tags" not in nodes.sent


@pytest.mark.parametrize(("age", "expected"), [(INTENT_SECONDS - 1, []), (INTENT_SECONDS + 1, [1])])
def test_an_intent_stays_while_its_statement_may_run(nodes: Nodes, age: float, expected: list[int]) -> None:
    """A process of an older release may have written it."""
    assert confirmed([row(1, V1, is_intent=True, age=age)]) == expected
