"""Queue nodes that cannot do what write-behind needs, and queues that hold what nobody writes there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db.models import F
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.errors import WriteBehindError, WriteBehindUnknownError
from cacheproject.services import Services
from tests.integration.test_writebehind_rows import command, land
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5)


def add_one(meter: Meter) -> None:
    Meter.behind.update(meter.pk, count=F("count") + 1)


@pytest.fixture
def old_node(own_services: Services) -> Iterator[str]:
    """A node that lacks WAITAOF, as Redis before 7.2 does."""
    settings = ("--appendonly", "yes", "--maxmemory-policy", "noeviction", "--rename-command", "WAITAOF", "")
    yield f"redis://127.0.0.1:{own_services.add_node('old', *settings)}/0?name=old"
    own_services.kill("old")


def test_a_node_without_waitaof_is_told_of(meter: Meter, old_node: str) -> None:
    """By the checks of the nodes before, and by the drain; with ``memory`` it is not needed."""
    told = "'old' cannot tell when its file is on its disk .*must be Redis 7.2 or later, or Valkey"
    with override_settings(WRITE_BEHIND={"nodes": [old_node]}):
        add_one(meter)
        with pytest.raises(WriteBehindError, match=told):
            land()
        [fault] = writebehind.node_faults()
        assert "7.2" in fault
        assert command("status", code=1)["faults"] == [fault]
    untold = pytest.raises(WriteBehindUnknownError, match="took the write, but did not tell")
    with override_settings(WRITE_BEHIND={"nodes": [old_node], "durability": "fsync"}), untold:
        add_one(meter)
    with override_settings(WRITE_BEHIND={"nodes": [old_node], "durability": "memory"}):
        assert writebehind.node_faults() == []
        land()
    assert Meter.objects.get(pk=meter.pk).count == 2
