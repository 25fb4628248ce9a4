"""The runbook has an entry for each kind of fault, and the documentation has each entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachebackend.monitoring.runbook import EXPLAINS, RUNBOOK, FaultKind

PRODUCTION = Path(__file__).resolve().parents[3] / "docs" / "production.md"


@pytest.mark.parametrize("kind", list(FaultKind))
def test_each_kind_of_fault_has_its_section(kind: FaultKind) -> None:
    """Its heading is the anchor to which the page links; the section says what to do in one sentence."""
    _, heading, rest = PRODUCTION.read_text().partition(f"\n### {kind}\n")
    section = " ".join(rest.partition("\n### ")[0].split())
    assert heading
    assert section.startswith(RUNBOOK[kind].meaning)
    assert f"**What to do:** {RUNBOOK[kind].way_out}" in section
    assert "" not in (RUNBOOK[kind].meaning, RUNBOOK[kind].way_out, *RUNBOOK[kind].steps)


def test_a_cause_comes_before_what_it_explains() -> None:
    """So that a fault is a consequence of the first cause, not the other way round."""
    order = list(RUNBOOK)
    assert all(
        order.index(kind) < order.index(other) for kind, others in EXPLAINS.items() for other in others
    )
