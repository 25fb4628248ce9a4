"""The page ``docs/benchmarks.md``: tables, and charts that are readable in light and dark."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.contenders import PEERS

__all__ = ["machine", "write"]

#: The operations that have a chart.
CHARTS = ("get, a row", "set, a row", "get_many(100)", "set_many(100)", "miss, lease, fill")
_BAR, _GAP, _LEFT, _WIDTH = 18, 8, 210, 720
_STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.ours{fill:#0969da}.peer{fill:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#58a6ff}.peer{fill:#6e7681}}"
)


def machine() -> str:
    """Return the machine and the versions that were measured."""
    names = ("Django", "redis", "hiredis", "ormsgpack")
    versions = [f"{name} {version(name)}" for name in names]
    dists = sorted(path.name.removesuffix(".dist-info").rpartition("-") for path in PEERS.glob("*.dist-info"))
    versions += [f"{name.replace('_', '-')} {number}" for name, _, number in dists]
    cores = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    return f"{cores}, Python {platform.python_version()}; {', '.join(versions)}"


def write(results: Mapping[str, Any], root: Path) -> None:
    """Write the results, the page and its charts."""
    (root / "benchmarks" / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    folder = root / "docs" / "charts"
    folder.mkdir(exist_ok=True)
    microseconds = results["details"]["peers"]["microseconds"]
    for operation in CHARTS:
        (folder / f"{_file(operation)}.svg").write_text(chart(operation, microseconds[operation]))
    (root / "docs" / "benchmarks.md").write_text(page(results))


def chart(title: str, each: Mapping[str, Mapping[str, float]]) -> str:
    """Return a bar chart of the medians as SVG, the fastest first."""
    rows = sorted(each.items(), key=lambda item: item[1]["median"])
    longest = rows[-1][1]["median"]
    height = len(rows) * (_BAR + _GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}: microseconds a call</title><style>{_STYLE}</style>",
        f'<text x="0" y="14">{escape(title)}, µs (less is better)</text>',
    ]
    for number, (name, timing) in enumerate(rows):
        y = 26 + number * (_BAR + _GAP)
        width = max(2, (_WIDTH - _LEFT - 80) * timing["median"] / longest)
        kind = "ours" if name.startswith("ringcache") else "peer"
        parts += [
            f'<text x="0" y="{y + 14}">{escape(name)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + 14}">{timing["median"]:,.1f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def page(results: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; the figures are in `benchmarks/results.json`. All figures of a",
        "subject are from one run on the same servers, in rounds that take turns: medians, and the range of",
        "a ratio over the quartiles. Client and servers share one core, because otherwise the scheduler",
        "decides the result; where the page says so, and for processes and drains, they have all cores.",
        "Absolute figures depend on the machine; look at the ratios. A row has twelve fields, among them a",
        "Decimal and two aware datetimes.",
        "A bare socket packs commands with hiredis and pickles the row, as the other libraries do.",
        "",
        f"Machine: {results['machine']}.",
        "",
        *_goals(results["goals"]),
        "## Microseconds a call",
        "",
    ]
    details = results["details"]
    for operation, each in details["peers"]["microseconds"].items():
        lines += [f"### {operation}", ""]
        if operation in CHARTS:
            lines += [f"![{operation}](charts/{_file(operation)}.svg)", ""]
        lines += ["| | median | quartiles |", "|---|---|---|"]
        lines += [
            f"| {name} | {timing['median']:,.1f} | {timing['low']:,.1f} to {timing['high']:,.1f} |"
            for name, timing in sorted(each.items(), key=lambda item: item[1]["median"])
        ]
        lines.append("")
    lines += [*_pages(details.get("pages")), *_near(details["near_lag"]), *_relay(details.get("relay"))]
    lines += _cluster(details.get("cluster"))
    return "\n".join([*lines, *_scaling(details["scaling"]), *_behind(details), *_FLOOR, ""])


def _goals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Goals",
        "",
        "`≥ n`: at least `n` times as fast. `≤ n`: at most `n` times the duration. Each subject is measured",
        "alone with `python -m benchmarks.goals --only SUBJECT`.",
        "",
        "| subject | work | compared with | times | quartiles | goal | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["met"] is None:
            figures, met = "| ", "not measured"
        else:
            low, high = row["quartiles"]
            figures, met = (
                f"{row['figure']:,.2f} | {low:,.2f} to {high:,.2f}",
                "met" if row["met"] else "**missed**",
            )
        ways = f"{row['subject']} | {row['work']} | {row['compared_with']}"
        lines.append(f"| {ways} | {figures} | {row['required']} | {met} |")
    missed = [row for row in rows if row["met"] is False]
    reasons = [
        f"- {row['work']} ({row['compared_with']}): {row['why_missed'] or 'not explained yet.'}"
        for row in missed
    ]
    return [*lines, "", *(["Why goals are missed:", "", *reasons, ""] if missed else [])]


def _cluster(results: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return []
    failover = results["failover"]
    return [
        "## A cluster",
        "",
        f"The owner of a key is found in {results['route_ns']} ns. A primary was killed while 8 threads",
        f"read: {failover['reads']:,} reads, {failover['errors']} errors, the slowest took",
        f"{failover['slowest_ms']} ms,",
        f"and {failover['slower_than_two_timeouts']} took longer than twice the socket timeout (0.25 s).",
        "",
    ]


def _near(results: Mapping[str, Any]) -> list[str]:
    lags = (
        f"{results['median_ms']} ms (median), {results['p99_ms']} ms (p99), {results['worst_ms']} ms (worst)"
    )
    return [
        "## The near cache",
        "",
        f"Time from the acknowledgement of a write until its copies in {results['readers']} other processes",
        f"were gone, over {results['writes']:,} writes (`python -m benchmarks.goals --only near_lag`):",
        f"{lags}.",
        "The writer saw each of its own writes. Readers that never wait, and so block the other threads of",
        "their process, add up to 5 ms.",
        "",
    ]


def _pages(results: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return []
    lines = [
        "## A shop's category page",
        "",
        "The page reads a category by its slug, the first 20 of its 40 products by price, and their number.",
        "A share of the requests is `save()` of any product instead, with another `stock` or `price`. The",
        "contenders get the same requests on the same servers, and take turns.",
        "",
        "| requests | | page, µs | queries a page | write, µs |",
        "|---|---|---|---|---|",
    ]
    for mix, contenders in results["pages"].items():
        for name, each in contenders.items():
            write = "" if each["write"] is None else f"{each['write']:,.0f}"
            lines.append(f"| {mix} | {name} | {each['page']:,.0f} | {each['queries']:.2f} | {write} |")
    sizes = ", ".join(f"{name} {size:,}" for name, size in results["bytes_a_list"].items())
    return [*lines, "", f"Bytes of a cached list of 20 products, with its rows: {sizes}.", ""]


def _relay(results: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return []
    rate, rate_few = results["rows_per_second"], results["rows_per_second_few"]
    saves, day = results["save_ms"], results["day"]
    sizes = ", ".join(f"{size:g}" for size in day["table_mb"])
    return [
        "## The relay",
        "",
        f"An outbox of {results['rows']:,} rows was relayed at {rate:,} rows a second, one of 10,000",
        f"at {rate_few:,}, with at most {results['peak_mb']:,} MB of memory.",
        f"A `save()` of a cached row took {saves['alone']:.1f} ms without the relay,",
        f"and {saves['beside']:.1f} ms beside it.",
        "The table of a site that writes 1,000 rows a second had, with its indexes, these megabytes after",
        f"each quarter of {day['writes']:,} writes: {sizes}.",
        "Autovacuum needs no settings of the table for this. A transaction that stays open, such as a dump,",
        "keeps the deleted rows until it ends. Each run of the relay passes over them, which takes half a",
        "millisecond for a thousand rows.",
        "",
    ]


def _scaling(results: Mapping[str, Any]) -> list[str]:
    lines = ["## What grows with nodes, keys and processes", ""]
    lines += ["The nodes are databases of four servers, so that only the client's part grows:", ""]
    lines += _nodes(results["nodes"])
    few, many = results["growth"].values()
    grown = {way: many[way] / few[way] - 1 for way in ("get", "bare socket")}
    lines += ["", "These two alone, in turns, because the difference is small: a get on"]
    lines.append(
        f"{' and '.join(results['growth'])} nodes {few['get']:.1f} and {many['get']:.1f} µs, "
        f"{grown['get']:.1%} more; on bare sockets {few['bare socket']:.1f} and {many['bare socket']:.1f}, "
        f"{grown['bare socket']:.1%} more."
    )
    lines += [
        "",
        "Each node is a server, and all of them share one core with the client. The processes evict each",
    ]
    lines += ["other's data from the CPU's caches; reads of the same keys on bare sockets slow down too:", ""]
    lines += _nodes(results["servers"])
    lines += ["", "| keys on three nodes | get, µs |", "|---|---|"]
    lines += [f"| {int(count):,} | {timing:.1f} |" for count, timing in results["keys"].items()]
    lines += ["", "| processes | gets a second, together |", "|---|---|"]
    lines += [f"| {count} | {rate:,} |" for count, rate in results["processes"].items()]
    names = list(next(iter(results["bytes_a_key"].values())))
    lines += ["", f"| bytes a key | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for label, each in results["bytes_a_key"].items():
        lines.append(f"| {label} | {' | '.join(f'{each[name]:,.0f}' for name in names)} |")
    return [*lines, ""]


def _nodes(results: Mapping[str, Any]) -> list[str]:
    lines = [
        "| nodes | get, µs | on bare sockets | difference | get_many(100), µs |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {count} | {t['get']:.1f} | {t['bare socket']:.1f} | {t['get'] - t['bare socket']:.1f} "
        f"| {t['get_many(100)']:.1f} |"
        for count, t in results.items()
    ]


def _behind(details: Mapping[str, Any]) -> list[str]:
    lines = ["## Write-behind", "", "| one write of one row | µs |", "|---|---|"]
    lines += [f"| {way} | {timing:,.1f} |" for way, timing in details["enqueue"]["enqueue_us"].items()]
    lines += ["", "| rows written to Postgres by | a second |", "|---|---|"]
    lines += [f"| {way} | {rate:,} |" for way, rate in details["behind"]["drain_per_second"].items()]
    return [*lines, ""]


def _file(operation: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in operation).strip("-").replace("--", "-")


_FLOOR = [
    "## What a get costs beyond a bare GET",
    "",
    "From a profile of a `get` of a row, compared with a bare `GET` on the same socket, largest part first:",
    "decoding the row (MessagePack calls back for the Decimal); making and checking the key (Django allows",
    "`make_key` and `KEY_FUNCTION` to be replaced); taking a connection and returning it (a connection",
    "belongs to no thread between two calls, so that a thread that ends leaves none open); the breaker, the",
    "counters and reading the first bytes of the record.",
    "",
    "## Where the time goes",
    "",
    "- `get_many(100)`: a third is decoding the rows, a quarter the three sockets; on one node, like the",
    "  other library, it takes a quarter less. Decoding all rows in one call would save a tenth, but then a",
    "  damaged row could change its neighbour.",
    "- A miss with its delete is three round trips (`DEL`, `SET NX GET`, `SET IFEQ`), four in the other",
    "  library, and they are most of it: our own code takes 13 µs on a core of its own. The delete is a",
    "  script, so that it does not remove another writer's quarantine: 7 µs more than a `DEL`.",
    "- A write-behind write: half is the node's script and the write to its file; of our own 10 µs two are",
    "  Django's, for `F(x) + 1`.",
    "- A drain: more than half is Postgres, in one synchronous transaction for each of eight partitions.",
    "  The table is vacuumed before each round, as autovacuum does in time: otherwise each round would find",
    "  more dead rows than the one before, and `UPDATE … FROM` more than `ON CONFLICT`.",
    "- A get, by nodes: nothing in it is done for each node, but each node has a socket, a connection and a",
    "  few objects, and with more of them fewer are in the CPU's caches. Bare sockets slow down by the same",
    "  percentage, so where we miss that goal, they miss it too.",
]
