"""``ring simulate``: hit ratios of caches of several sizes, from a trace or from the running site."""

from __future__ import annotations

import gzip
import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from cachebackend import RingCache
from cachebackend.management import ring_simulate
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def simulate(*words: str) -> dict[str, Any]:
    out = StringIO()
    call_command("ring", "simulate", *words, "--json", stdout=out)
    report: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return report


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Requests over 100 keys, ten of them most often."""
    path = tmp_path / "small.lis.gz"
    keys = (number % 10 if number % 3 else number % 100 for number in range(3000))
    path.write_bytes(gzip.compress("".join(f"{key} 1 0 {key}\n" for key in keys).encode()))
    return path


def test_a_trace_is_simulated_by_policy_and_size(trace: Path, tmp_path: Path) -> None:
    """With a sentence about the smallest size that is enough, and a chart."""
    picture = tmp_path / "misses.svg"
    report = simulate(str(trace), "--sizes", "100,10,20", "--keep", "80", "--svg", str(picture))
    assert report["sizes"] == [10, 20, 100]
    assert {"LRU", "LFU", "W-TinyLFU", "S3-FIFO", "ARC", "Redis LRU", "Redis LFU"} == set(
        report["hit_ratios"]
    )
    for ratios in report["hit_ratios"].values():
        assert ratios[-1] == pytest.approx(1 - 100 / 3000, abs=1e-3)
        assert ratios[0] < ratios[-1]
    assert "keep 80% of the 96.7% of reads that hit with 100 entries" in report["advice"]
    root = ET.fromstring(picture.read_text())  # our own
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 7


@pytest.mark.filterwarnings("ignore:Cache key contains characters")
def test_the_reads_of_the_site_can_be_simulated(ring_cache: RingCache) -> None:
    """Only keys of the alias, from all nodes, of single and many-key reads; with their memory."""
    ring_cache.set("page 1", b"x" * 10_000)
    stop = threading.Event()

    def read() -> None:
        cache: Any = ring_cache
        while not stop.is_set():
            cache.get("a")
            cache.get_many(["b", "c", "page 1", "page 2"])
            cache.client.nodes[0].call((b"GET", b"foreign"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        report = simulate("--live", "0.5", "--sizes", "5")
    finally:
        stop.set()
        reader.join()
    assert report["requests"] > 8
    assert 10_000 < report["entry_bytes"] < 11_000  # one of the five keys exists
    assert "5 entries (about 0.05" in report["advice"]
    assert report["hit_ratios"]["LRU"][0] == pytest.approx(1 - 5 / report["requests"], abs=1e-3)


@pytest.mark.hangs
@pytest.mark.ring_of_nodes
def test_a_node_that_does_not_answer_is_an_error(ring_cache: RingCache, services: Services) -> None:
    """The message names it."""
    services.stop("ring-b")
    try:
        with pytest.raises(CommandError, match="node 'ring-b' did not answer"):
            simulate("--live", "0.1")
    finally:
        services.resume("ring-b")


def test_a_write_is_not_a_read(tmp_path: Path) -> None:
    """It stores its key: a key that is read once misses, unless it was written before."""
    path = tmp_path / "once.csv"
    once = "".join(f"{n},k{n},2,9,1,{op},0\n" for n in range(500) for op in ("get", "set"))
    path.write_text(once)
    report = simulate(str(path), "--sizes", "400")
    assert (report["requests"], report["writes"]) == (500, 500)
    assert {ratio for ratios in report["hit_ratios"].values() for ratio in ratios} == {0.0}
    path.write_text("".join(f"{n},k{n},2,9,1,{op},0\n" for n in range(500) for op in ("set", "get")))
    report = simulate(str(path), "--sizes", "400")
    assert {ratio for ratios in report["hit_ratios"].values() for ratio in ratios} == {1.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a trace, or --live SECONDS"),
        (("nothing.lis",), "nothing.lis: there is no such file"),
        (("--live", "0"), "--live must be a number of seconds above 0, such as --live 30, not 0"),
        (("--live", "-3"), "--live must be a number of seconds above 0, such as --live 30, not -3"),
        (("--live", "inf"), "--live must be a number of seconds above 0, such as --live 30, not inf"),
        (("--live", "0.01"), "no key was read"),
    ],
)
def test_bad_input_is_refused(words: Iterator[str], message: str) -> None:
    """Before anything is simulated."""
    with pytest.raises(CommandError, match=message):
        simulate(*words)


def test_bad_sizes_are_refused(trace: Path) -> None:
    """So is a share that is not a percentage."""
    with pytest.raises(CommandError, match="--sizes are whole numbers from 1"):
        simulate(str(trace), "--sizes", "10,x")
    with pytest.raises(CommandError, match="--keep is a number above 0"):
        simulate(str(trace), "--keep", "0")


def test_bad_sizes_are_refused_before_the_nodes_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONITOR slows the nodes down."""
    recorded: list[object] = []
    monkeypatch.setattr(ring_simulate, "read_keys", lambda *_: recorded.append(1) or [])
    with pytest.raises(
        CommandError, match="--sizes are whole numbers from 1, with commas between, not 'a,b'"
    ):
        simulate("--live", "1", "--sizes", "a,b")
    assert not recorded


def test_a_chart_that_cannot_be_written_is_refused_first(trace: Path, tmp_path: Path) -> None:
    """Not after the whole simulation."""
    with pytest.raises(CommandError, match=r"--svg: .*nowhere/x.svg cannot be written: No such file"):
        simulate(str(trace), "--svg", str(tmp_path / "nowhere" / "x.svg"))
