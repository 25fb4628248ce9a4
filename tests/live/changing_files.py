"""Faults of `change_checker`: a queue node comes back with an older file, or with none.

The guarantees allow a loss here. So each fault knows exactly which writes are lost, and requires that no
other is, and that each partition stops that has lost any, unless the loss cannot be seen.
"""

from __future__ import annotations

import random
import shutil
from typing import Any

from tests.live.changing_site import Site
from tests.live.meters import SUMS, key_of
from tests.live.old_servers import drain_all
from tests.live.world import TABLE

__all__ = ["empty_node", "restore_file"]

#: While partitions are stopped, the rows whose keys this number divides are read.
READ_EVERY = 10


def restore_file(site: Site) -> None:
    """A queue node comes back with an older file: its partitions stop, if the loss can be seen.

    The guarantees say what is lost: what the file lacks. With ``--keep`` what the file has is applied,
    also if it was applied before; with ``--drop`` nothing of it is.
    """
    name = site.a_node()
    way = random.choice(("drained", "sampled", "unseen"))
    with site.paused():
        _start_queues(site)
        _add(site)
        site.services.kill(name)
        folder, copy = site.services.folder / name, site.services.folder / "older"
        shutil.copytree(folder, copy)
        site.services.restart(name)
        queued = 1
        for _ in range(random.randint(1, 3) if way == "drained" else 0):
            site.drain_all()
            queued = 0
            _add(site)
        if way != "drained":
            _add(site)
        if way == "sampled":
            site.run(_seal)
        site.services.kill(name)
        shutil.rmtree(folder)
        copy.rename(folder)
        site.services.restart(name)
        _judge_restored(site, name, way, queued + 1)


def empty_node(site: Site) -> None:
    """A queue node comes back empty: its partitions stop, and exactly what was queued is lost."""
    name = site.a_node()
    with site.paused():
        _start_queues(site)
        _add(site)
        site.services.kill(name)
        shutil.rmtree(site.services.folder / name)
        (site.services.folder / name).mkdir()
        site.services.restart(name)
        _judge_restored(site, name, "emptied", 1)


def _start_queues(site: Site) -> None:
    """Compare, and let each partition have a queue that was drained."""
    site.settle()
    _add(site)
    site.drain_all()


def _judge_restored(site: Site, name: str, way: str, queued: int) -> None:
    """Repair the site, and require that exactly the expected writes were applied.

    Args:
        site: The site.
        name: The node.
        way: What its file is.
        queued: The additions to each row that are acknowledged and not drained, on other nodes.
    """
    is_kept = way == "emptied" or random.random() < 0.5
    affected = {key for key, node in site.run(_nodes_of_rows) if node == name}
    before = _counts(site)
    _add(site)
    result = site.run(_tick)
    stopped, refused = set(result["stopped"]), set(result["refused"])
    if stopped != (set() if way == "unseen" else affected):
        site.wrong.append(f"{way}: {len(stopped)} rows stopped, of {len(affected)} rows of the node")
    if refused != {key for key in stopped if key % READ_EVERY == 0}:
        site.wrong.append(f"{way}: {len(refused)} rows refused to be read, {len(stopped)} stopped")
    site.command("repair", "--keep" if is_kept else "--drop")
    if result := site.run(_tick)["stopped"]:
        site.wrong.append(f"{way}: {len(result)} rows are stopped after the repair")
    _add(site)
    site.drain_all()
    after = _counts(site)
    # Of what was queued: what the file has, and what was added before and after the repair
    landed = {"unseen": 3, "emptied": 2}.get(way, 3 if is_kept else 1)
    for key, count in before.items():
        expected = count + (landed if key in affected else queued + 2)
        if after[key] != expected:
            kind = "kept" if is_kept else "dropped"
            site.wrong.append(f"{way}, {kind}: row {key} has {after[key]} instead of {expected}")
    site.meters.settle(after)


def _add(site: Site) -> None:
    site.run(_add_to_all)


def _counts(site: Site) -> dict[int, int]:
    """Return ``count`` of each row to add to, as the table has it."""
    with site.database() as database:
        keys = [key_of(0, index) for index in SUMS]
        rows = database.execute(f"SELECT id, count FROM {TABLE} WHERE id = ANY(%s)", [keys])
        return {key: int(count) for key, count in rows}


# In processes of the site


def _add_to_all(model: Any) -> None:
    from django.db.models import F

    model.behind.update_many({key_of(0, index): {"count": F("count") + 1} for index in SUMS})


def _seal(_: Any) -> None:
    from cachebackend import writebehind

    writebehind.seal_dirty()


def _nodes_of_rows(model: Any) -> list[tuple[int, str]]:
    """Return for each row to add to the name of the node that queues its writes."""
    from cachebackend.writebehind.queue import project_queue

    client = project_queue()
    names = [node.name for node in client.options.nodes]
    keys = [key_of(0, index) for index in SUMS]
    return [(key, names[client.context.ring.owner(_partition(model, key).name)]) for key in keys]


def _partition(model: Any, key: int) -> Any:
    from cachebackend.writebehind.queue import project_queue

    rows = model.behind.rows
    return rows.partition(rows.row(key), project_queue().context.partitions)


def _tick(model: Any) -> dict[str, list[int]]:
    """Drain like the workers; return the rows whose partitions stopped, and those whose reads raise."""
    from cachebackend.errors import WriteBehindStoppedError

    stopped = drain_all()
    rows: dict[str, list[int]] = {"stopped": [], "refused": []}
    for index in SUMS:
        key = key_of(0, index)
        if str(_partition(model, key)) in stopped:
            rows["stopped"].append(key)
        try:
            if key % READ_EVERY == 0:
                model.behind.get(key)
        except WriteBehindStoppedError:
            rows["refused"].append(key)
    return rows
