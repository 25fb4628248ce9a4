"""The faults as the page shows them."""

from __future__ import annotations

import pytest
from django.urls import reverse

from cachebackend.admin.fault_rows import fault_rows, with_code
from cachebackend.monitoring import Fault
from cachebackend.monitoring.runbook import FaultKind


def test_more_than_two_faults_are_folded_away() -> None:
    """So that the tiles are seen without scrolling on a phone."""
    rows = fault_rows([Fault(FaultKind.NODE_DOWN, str(number)) for number in range(5)], "admin")
    assert [len(rows["shown"]), len(rows["folded"])] == [2, 3]


def test_a_fault_links_to_its_section_of_the_runbook_and_has_its_consequences() -> None:
    """With the sentence that says what to do."""
    below = Fault(FaultKind.DELETES_PENDING, "below")
    [row] = fault_rows([Fault(FaultKind.NO_BEAT, "beat", consequences=(below,))], "admin")["shown"]
    assert row["runbook"] == f"{reverse('admin:cachebackend_ring_runbook')}#no-beat"
    assert row["way_out"].startswith("Start beat, once: <code>celery -A yourproject beat</code>")
    assert [each["fault"].message for each in row["consequences"]] == ["below"]


@pytest.mark.parametrize(
    ("fault", "href"),
    [
        (Fault(FaultKind.PARTITION_STOPPED, "…", subject="shop.meter:3"), "#partition-shop.meter:3"),
        (Fault(FaultKind.WRITES_PARKED, "…"), "/admin/cachebackend/parkedwrite/"),
        (Fault(FaultKind.SETTINGS_DIFFER, "…"), "#processes"),
        (Fault(FaultKind.DELETES_PENDING, "…"), "#invalidation"),
    ],
)
def test_a_fault_links_to_what_it_concerns(fault: Fault, href: str) -> None:
    """A stopped partition, the parked writes, or the section of the page."""
    [row] = fault_rows([fault], "admin")["shown"]
    assert row["href"] == href


def test_code_of_the_runbook_is_escaped() -> None:
    """Links have no addresses: the page is not the documentation."""
    assert with_code("a `<b>` & [c](d.md)") == "a <code>&lt;b&gt;</code> &amp; c"
