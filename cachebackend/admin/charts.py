"""The page's pictures, as SVG that the browser only has to show: the ring, and lines over minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from cachebackend.monitoring import NodeFigures

__all__ = ["line_chart", "ring_picture"]

#: The picture's side, the arc's radius and its width, in the units of its view box.
SIDE, RADIUS, WIDTH = 300, 98, 26
#: How far from the middle the names stand.
NAMES_AT = RADIUS + WIDTH / 2 + 12
#: With more nodes than these, only the names of those that are not up fit beside the arcs.
MOST_NAMES = 12
CHART_WIDTH, CHART_HEIGHT = 600, 120


def ring_picture(nodes: Sequence[NodeFigures]) -> SafeString:
    """Return the ring: an arc for each node, as long as its share of the slots, coloured by its state."""
    arcs, names = [], []
    turn = -math.pi / 2
    middle = SIDE / 2
    for node in nodes:
        sweep = node.share * 2 * math.pi
        title = f"{node.name}: {node.state}, {node.share:.1%} of the slots"
        arcs.append((_arc(turn, sweep), "up" if node.is_well else "down", WIDTH, title))
        at = turn + sweep / 2
        if len(nodes) <= MOST_NAMES or not node.is_well:
            x, y = middle + NAMES_AT * math.cos(at), middle + NAMES_AT * math.sin(at)
            anchor = "middle" if abs(math.cos(at)) < 0.4 else ("start" if math.cos(at) > 0 else "end")
            names.append((f"{x:.1f}", f"{y + 4:.1f}", "up" if node.is_well else "down", anchor, node.name))
        turn += sweep
    up = sum(node.is_well for node in nodes)
    return format_html(
        '<svg class="ring" viewBox="0 0 {0} {0}" role="img" aria-label="{1} of {2} nodes are up">{3}{4}'
        '<text x="{5}" y="{5}" class="big">{1}/{2}</text>'
        '<text x="{5}" y="{6}" class="small">nodes up</text></svg>',
        SIDE,
        up,
        len(nodes),
        format_html_join("", '<path d="{}" class="arc {}" stroke-width="{}"><title>{}</title></path>', arcs),
        format_html_join("", '<text x="{}" y="{}" class="name {}" text-anchor="{}">{}</text>', names),
        SIDE // 2,
        SIDE // 2 + 18,
    )


def _arc(turn: float, sweep: float) -> str:
    """Return the path of an arc; a gap of a degree keeps neighbours apart."""
    gap = min(math.pi / 180, sweep / 4)
    begin, end = turn + gap, turn + sweep - gap
    middle = SIDE / 2
    points = [(middle + RADIUS * math.cos(at), middle + RADIUS * math.sin(at)) for at in (begin, end)]
    large = int(end - begin > math.pi)
    (x, y), (to_x, to_y) = points
    return f"M{x:.2f} {y:.2f}A{RADIUS} {RADIUS} 0 {large} 1 {to_x:.2f} {to_y:.2f}"


def line_chart(
    label: str, values: Sequence[float | None], most: float | None = None, unit: str = ""
) -> SafeString:
    """Return a line over minutes; a minute without a value is a gap.

    Args:
        label: What it shows, for those who cannot see it.
        values: One for each minute, the oldest first.
        most: The value at the top; the greatest there is by default.
        unit: What is written after the value at the top.
    """
    top = most or max((value for value in values if value is not None), default=0) or 1
    step = CHART_WIDTH / max(len(values) - 1, 1)
    pieces: list[list[str]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{at * step:.1f},{CHART_HEIGHT - value / top * (CHART_HEIGHT - 8):.1f}")
    lines = format_html_join("", '<polyline points="{}"/>', ((" ".join(p),) for p in pieces if len(p) > 1))
    dots = format_html_join(
        "", '<circle cx="{}" cy="{}" r="2.5"/>', (p[0].split(",") for p in pieces if len(p) == 1)
    )
    return format_html(
        '<svg class="chart" viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img" aria-label="{2}">'
        '<line x1="0" x2="{0}" y1="{1}" y2="{1}"/>'
        '<line x1="0" x2="{0}" y1="8" y2="8" class="top"/>{3}{4}</svg>'
        '<p class="axis"><span>{5} min ago</span><span>top: {6}{7}</span><span>now</span></p>',
        CHART_WIDTH,
        CHART_HEIGHT,
        label,
        lines,
        dots,
        len(values) - 1,
        f"{top:,.0f}" if top >= 1000 else f"{top:.4g}",
        unit,
    )
