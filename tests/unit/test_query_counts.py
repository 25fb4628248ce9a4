"""Counts of queries by form: what a form is, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cachebackend import query_counts
from cachebackend.counters import Counters
from cachebackend.query_counts import (
    MAX_FORMS,
    FormCounts,
    FormKind,
    QueryCounts,
    QueryForm,
    form_of,
    known_form,
    shape_form,
    shape_text,
)
from cachebackend.shapes import Shape


@pytest.fixture(autouse=True)
def no_forms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without the forms that other tests have met."""
    monkeypatch.setattr(query_counts, "_forms", {})
    monkeypatch.setattr(query_counts, "_of_shapes", {})
    return


def test_counts_are_added_up_by_form() -> None:
    """Over all threads of a process, by the name that the hashes have."""
    counters = Counters(QueryCounts)
    one, two = (form_of(FormKind.CACHED, "shop.Product", text) for text in ("one", "two"))
    counters.cell[one].hits += 2
    counters.cell[two].misses += 1
    found = counters.take_new("hours")
    assert found == {f"{one.id}.hits": 2, f"{two.id}.misses": 1}
    counters.put_back("hours", found)
    counters.cell[one].hits += 1
    assert counters.take_new("hours") == found | {f"{one.id}.hits": 3}


def test_equal_forms_are_one_object() -> None:
    """So that a hit finds the counters of its form without comparing texts."""
    form = form_of(FormKind.CACHED, "shop.Product", "text", ["shape"])
    assert form_of(FormKind.CACHED, "shop.Product", "text", ["shape"]) is form
    assert form_of(FormKind.NOT_CACHED, "shop.Product", "text", ["shape"]) is not form
    assert known_form(form.id) is form


def test_forms_beyond_the_limit_are_counted_as_one() -> None:
    """Each kind has its own limit."""
    forms = [form_of(FormKind.NOT_CACHED, "shop.Product", str(number)) for number in range(MAX_FORMS)]
    beyond = {form_of(FormKind.NOT_CACHED, "shop.Product", text) for text in ("more", "and more")}
    [other] = beyond
    assert (other.id, other.model, other.text) == ("not-cached", "", "other")
    assert known_form(other.id) is other
    assert form_of(FormKind.NOT_CACHED, "shop.Product", "0") is forms[0]
    assert form_of(FormKind.CACHED, "shop.Product", "0").text == "0"


def test_a_form_is_read_from_its_description() -> None:
    """By processes that have not met it."""
    form = QueryForm(FormKind.CACHED, "shop.Product", "text", ["shape"])
    read = QueryForm.read(form.id, form.description.encode())
    assert read is not None
    assert vars(read) == vars(form)
    assert QueryForm.read("cached", None) is known_form("cached")


@pytest.mark.parametrize(
    "description",
    [
        None,
        b"",
        b"[1]",
        b"[[], 1, 2, 3]",
        b'["new kind", "a", "b", []]',
        b'["cached", "a", "\\ud800", []]',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_description_that_cannot_be_read_is_no_form(description: bytes | None) -> None:
    """Another version, or another program, wrote it."""
    assert QueryForm.read("0123456789abcdef", description) is None


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (Shape(["b", "a"], ["c"]), "shop_product by a, b (c)"),
        (Shape(["a"], []), "shop_product by a"),
        (Shape([], ["c", "d"]), "shop_product (c, d)"),
        (Shape(["a"], None), "shop_product by a (all columns)"),
    ],
)
def test_a_shape_as_text(shape: Shape, text: str) -> None:
    """The columns that queries compare with values, and in brackets the others that change results."""
    assert shape_text("shop_product", shape) == text
    assert shape_form("shop_product", shape).text == text
    assert shape_form("shop_product", shape) is shape_form("shop_product", shape)


def test_the_counters_of_a_form_begin_at_zero() -> None:
    """Those of another version are ignored."""
    assert FormCounts.from_dict({"hits": 1, "unknown": 2}) == FormCounts(hits=1)
