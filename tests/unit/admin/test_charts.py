"""The charts of the page."""

from __future__ import annotations

import pytest

from cachebackend.admin.charts import MAX_NAME_CHARACTERS, line_chart, ring_picture
from cachebackend.monitoring import NodeFigures


def node(name: str, share: float, state: str = "up") -> NodeFigures:
    return NodeFigures(name, share, state, None, "", 0.1, {})


def test_a_large_ring_has_an_arc_for_each_node_and_no_crowd_of_names() -> None:
    """Fifty nodes: their names are in the titles of the arcs."""
    picture = ring_picture([node(f"n{n}", 1 / 50) for n in range(50)])
    assert picture.count("<path") == 50
    assert 'class="name"' not in picture
    assert "n49: up" in picture


def test_names_are_escaped() -> None:
    """A name with markup is shown as text."""
    assert "<i>" not in ring_picture([node("<i>", 1.0)])


def test_a_long_name_is_shortened_beside_its_arc() -> None:
    """Else it would be drawn outside the picture; the title of the arc has the whole name."""
    name = "cache-node-eu-central-1a.example.internal"
    picture = ring_picture([node(name, 1.0)])
    assert f"<title>{name}: up" in picture
    assert f">…{name[1 - MAX_NAME_CHARACTERS :]}</text>" in picture


def test_a_minute_without_a_value_is_a_gap() -> None:
    """It is not drawn as zero."""
    assert line_chart("x", [1, 2, None, 3, 4]).count("<polyline") == 2
    assert line_chart("x", [1, None, None]).count("<circle") == 1
    assert "<polyline" not in line_chart("x", [None, None])


@pytest.mark.parametrize(
    ("values", "first"), [([], ""), ([1], ""), ([1, 2], "1 min ago"), ([None] * 60, "59 min ago")]
)
def test_the_axis_begins_with_the_oldest_minute(values: list[float | None], first: str) -> None:
    """A chart of no values, or of the current minute alone, has no earlier minute to name."""
    assert f'<p class="axis"><span>{first}</span>' in line_chart("x", values)


def test_a_chart_without_any_value_says_so() -> None:
    """It has no highest value."""
    assert "<span>no figures</span>" in line_chart("x", [None, None])
    assert "<span>top: 1,234 ms</span>" in line_chart("x", [1234, None], unit=" ms")
    assert "<span>top: 100 %</span>" in line_chart("x", [1], 100, " %")
