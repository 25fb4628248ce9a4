"""The charts of the page, as SVG: the ring, and lines over minutes. They need no JavaScript."""

from __future__ import annotations

import math
from collections.abc import Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from cachebackend.monitoring import NodeFigures

__all__ = ["line_chart", "ring_picture", "time_ago"]

#: The side of the picture, the radius of the ring and the width of its arcs, in units of the view box.
SIDE, RADIUS, ARC_WIDTH = 300, 98, 26
#: The distance of a node's name from the middle, in the same units.
NAME_RADIUS = RADIUS + ARC_WIDTH / 2 + 12
#: In a ring of more nodes, only the names of those that are not up fit beside the arcs.
MAX_NAMES = 12
#: The most characters of a name beside its arc; the title of the arc has the whole name.
MAX_NAME_CHARACTERS = 14
#: The size of a line chart and the space above its highest value, in units of its view box.
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 600, 120, 8


def ring_picture(nodes: Sequence[NodeFigures]) -> SafeString:
    """Return the ring: an arc for each node, as long as its share of the slots, coloured by its state."""
    arcs, names = [], []
    angle = -math.pi / 2
    for node in nodes:
        sweep = node.share * 2 * math.pi
        title = f"{node.name}: {node.state}, {node.share:.1%} of the slots"
        arcs.append((_arc(angle, sweep), _css_class(node), ARC_WIDTH, title))
        if len(nodes) <= MAX_NAMES or not node.is_up:
            names.append((*_name_position(angle + sweep / 2), _css_class(node), _shortened(node.name)))
        angle += sweep
    up = sum(node.is_up for node in nodes)
    return format_html(
        '<svg class="ring" viewBox="0 0 {0} {0}" role="img" aria-label="{7}">{3}{4}'
        '<text x="{5}" y="{5}" class="big">{1}/{2}</text>'
        '<text x="{5}" y="{6}" class="small">{8}</text></svg>',
        SIDE,
        up,
        len(nodes),
        format_html_join("", '<path d="{}" class="arc {}" stroke-width="{}"><title>{}</title></path>', arcs),
        format_html_join("", '<text x="{}" y="{}" text-anchor="{}" class="name {}">{}</text>', names),
        SIDE // 2,
        SIDE // 2 + 18,
        _("%(up)d of %(all)d nodes are up") % {"up": up, "all": len(nodes)},
        _("nodes up"),
    )


def _css_class(node: NodeFigures) -> str:
    return "up" if node.is_up else "down"


def _name_position(angle: float) -> tuple[str, str, str]:
    """Return where a name is beside the arc whose middle is at an angle: x, y and text-anchor."""
    x, y = SIDE / 2 + NAME_RADIUS * math.cos(angle), SIDE / 2 + NAME_RADIUS * math.sin(angle)
    is_above_or_below = abs(math.cos(angle)) < 0.4
    anchor = "middle" if is_above_or_below else ("start" if math.cos(angle) > 0 else "end")
    return f"{x:.1f}", f"{y + 4:.1f}", anchor


def _shortened(name: str) -> str:
    """Return the end of a long name: names of servers mostly begin alike."""
    return name if len(name) <= MAX_NAME_CHARACTERS else f"…{name[1 - MAX_NAME_CHARACTERS :]}"


def _arc(angle: float, sweep: float) -> str:
    """Return the path of an arc; a gap of a degree separates neighbours."""
    gap = min(math.pi / 180, sweep / 4)
    begin, end = angle + gap, angle + sweep - gap
    middle = SIDE / 2
    (x, y), (to_x, to_y) = (
        (middle + RADIUS * math.cos(each), middle + RADIUS * math.sin(each)) for each in (begin, end)
    )
    is_large = int(end - begin > math.pi)
    return f"M{x:.2f} {y:.2f}A{RADIUS} {RADIUS} 0 {is_large} 1 {to_x:.2f} {to_y:.2f}"


def line_chart(
    label: str,
    values: Sequence[float | None],
    maximum: float | None = None,
    unit: str = "",
    step_seconds: int = 60,
) -> SafeString:
    """Return a line over time; a step without a value is a gap.

    Args:
        label: What it shows, for people who cannot see it.
        values: One for each step, the oldest first; the last one is the current step.
        maximum: The value at the top; default: the greatest of the values.
        unit: The unit that is written after the value at the top.
        step_seconds: The length of a step.
    """
    top = maximum or max((value for value in values if value is not None), default=0) or 1
    pieces = _pieces(values, top)
    lines = format_html_join("", '<polyline points="{}"/>', ((" ".join(p),) for p in pieces if len(p) > 1))
    dots = format_html_join(
        "", '<circle cx="{}" cy="{}" r="2.5"/>', (p[0].split(",") for p in pieces if len(p) == 1)
    )
    return format_html(
        '<svg class="chart" viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img" aria-label="{2}">'
        '<line x1="0" x2="{0}" y1="{1}" y2="{1}"/>'
        '<line x1="0" x2="{0}" y1="{3}" y2="{3}" class="top"/>{4}{5}</svg>'
        '<p class="axis"><span>{6}</span><span>{7}</span><span>{8}</span></p>',
        CHART_WIDTH,
        CHART_HEIGHT,
        label,
        CHART_MARGIN,
        lines,
        dots,
        time_ago((len(values) - 1) * step_seconds) if len(values) > 1 else "",
        _top_label(top, unit) if any(pieces) else _("no figures"),
        _("now"),
    )


def time_ago(seconds: int) -> str:
    """Return how long ago a step was, in minutes, hours or days; "now" for the current one."""
    if not seconds:
        return _("now")
    if seconds < 2 * 3600:
        return _("%(number)d min ago") % {"number": seconds // 60}
    if seconds < 2 * 86_400:
        return _("%(number)d h ago") % {"number": seconds // 3600}
    return _("%(number)d d ago") % {"number": seconds // 86_400}


def _top_label(top: float, unit: str) -> str:
    return f"top: {top:,.0f}{unit}" if top >= 1000 else f"top: {top:.4g}{unit}"


def _pieces(values: Sequence[float | None], top: float) -> list[list[str]]:
    """Return the points of the line, as ``x,y``, in a list for each run of steps without a gap."""
    step = CHART_WIDTH / max(len(values) - 1, 1)
    pieces: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            pieces.append([])
        else:
            y = CHART_HEIGHT - value / top * (CHART_HEIGHT - CHART_MARGIN)
            pieces[-1].append(f"{index * step:.1f},{y:.1f}")
    return pieces
