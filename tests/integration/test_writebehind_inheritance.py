"""Managers that models inherit: of abstract bases, of parents with a table, and of proxies."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models import F
from django.test.utils import isolate_apps

from cachebackend import WriteBehindManager
from cachebackend.writebehind import queue
from tests.integration.write_behind import drain_all
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


def counted(name: str, *bases: Any, **attributes: Any) -> Any:
    options = type("Meta", (), {"app_label": "shop", **attributes.pop("meta", {})})
    return type(name, bases or (models.Model,), {"__module__": __name__, "Meta": options, **attributes})


@isolate_apps("tests.shop")
def test_each_child_of_an_abstract_model_has_its_own_manager() -> None:
    """It writes the child's rows, and the abstract model itself has none."""
    base = counted(
        "Base",
        views=models.IntegerField(default=0),
        behind=WriteBehindManager[Any](fields=["views"]),
        meta={"abstract": True},
    )
    one, two = counted("One", base), counted("Two", base)
    assert one.behind.model is one
    assert two.behind.model is two
    assert {one, two} <= set(queue.behind_models())
    with pytest.raises(AttributeError, match="Base is abstract"):
        _ = base.behind
    assert two.behind.rows.change(1, {"views": F("views") + 1}).row == b"1\0"
    with pytest.raises(AttributeError):
        _ = counted("Other").behind


@isolate_apps("tests.shop")
def test_a_child_with_a_table_does_not_have_its_parents_manager() -> None:
    """The parent's writes rows of the parent and knows no column of the child; the child may have its own."""
    parent = counted("Parent", views=models.IntegerField(), behind=WriteBehindManager[Any](fields=["views"]))
    child = counted("Child", parent, lines=models.IntegerField())
    with pytest.raises(AttributeError, match=r"Child has no 'behind' of its own: Parent\.behind writes"):
        _ = child.behind
    assert not hasattr(child, "behind")
    own = counted(
        "Own", parent, lines=models.IntegerField(), behind=WriteBehindManager[Any](fields=["lines"])
    )
    assert own.behind.model is own


def test_a_proxy_has_the_manager_of_its_model() -> None:
    """Two managers for the same rows would queue them in two places, without an order."""
    with isolate_apps("tests.shop"):
        proxy = counted("Proxy", Meter, meta={"proxy": True})
        assert proxy.behind is Meter.behind
        with pytest.raises(ImproperlyConfigured, match="Meter has a WriteBehindManager for the same rows"):
            counted("Second", Meter, meta={"proxy": True}, behind=WriteBehindManager[Any](fields=["count"]))
    meter = Meter.objects.create()
    proxy.behind.update(meter.pk, count=F("count") + 1)
    drain_all()
    assert Meter.objects.get().count == 1
