"""Whether a queue node can take writes, as its INFO shows it."""

from __future__ import annotations

import pytest

from cachebackend.writebehind.node_health import NodeHealth

MEGABYTE = 1024**2
WELL = {
    "used_memory": "2097152",
    "maxmemory": "4194304",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "loading": "0",
}


def test_a_node_that_is_well_has_no_faults() -> None:
    """Its memory and its limit are known."""
    health = NodeHealth.of(WELL)
    assert (health.memory_share, health.memory_fault, health.disk_faults) == (0.5, None, [])


@pytest.mark.parametrize("used", [4 * MEGABYTE, 5 * MEGABYTE])
def test_a_node_that_uses_all_of_its_memory_is_full(used: int) -> None:
    """Buffers that the server does not count are subtracted; then it may be nearly full only."""
    info = WELL | {"used_memory": str(used)}
    fault = NodeHealth.of(info).memory_fault or ""
    assert fault.startswith("is full, so it refuses writes")
    nearly = NodeHealth.of(info | {"mem_not_counted_for_evict": str(used - 4_000_000)}).memory_fault or ""
    assert nearly.startswith("is nearly full: it uses 3.8 of 4.0 MB (maxmemory)")


@pytest.mark.parametrize("info", [{}, {"used_memory": "9"}, {"used_memory": "x", "maxmemory": "9"}])
def test_memory_that_is_not_reported_is_unknown(info: dict[str, str]) -> None:
    """It is not zero, and no fault. The same is true of the files."""
    health = NodeHealth.of(info)
    assert (health.memory_share, health.memory_fault) == (None, None)
    assert (health.aof_status, health.save_status, health.disk_faults) == (None, None, [])


def test_a_node_without_a_limit_is_never_full() -> None:
    """``maxmemory`` is 0 then."""
    health = NodeHealth.of(WELL | {"maxmemory": "0"})
    assert (health.memory_share, health.memory_fault) == (None, None)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("aof_last_write_status", "err", "refuses writes: it cannot write its append-only file"),
        ("rdb_last_bgsave_status", "err", "could not save its last snapshot"),
        ("aof_last_bgrewrite_status", "err", "could not rewrite its append-only file"),
        ("loading", "1", "loads its file"),
    ],
)
def test_a_file_that_is_not_written_is_a_fault(name: str, value: str, words: str) -> None:
    """One for each file, with the field that shows it."""
    [fault] = NodeHealth.of(WELL | {name: value}).disk_faults
    assert fault.startswith(words)


def test_a_file_that_is_off_cannot_fail() -> None:
    """The server reports its last write as ``ok`` then, too."""
    assert NodeHealth.of(WELL | {"aof_enabled": "0"}).aof_status == "off"
