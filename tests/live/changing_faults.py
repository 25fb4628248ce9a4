"""What `change_checker` does to the site while writes are queued. Each function is one fault."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import redis

from tests.live.changing_files import empty_node, restore_file
from tests.live.changing_site import Site
from tests.live.world import TABLE, wait_for

__all__ = ["FAULTS"]

#: The types that ``count`` has in turn; every sum fits each of them.
TYPES = ("integer", "bigint", "numeric(14,2)", "numeric(16,4)")
PLACES = (2, 4)


def kill_node(site: Site) -> None:
    """A queue node is killed, and comes back with its file."""
    name = site.a_node()
    site.services.kill(name)
    time.sleep(random.uniform(0, 0.3))
    site.services.restart(name)


def kill_postgres(site: Site) -> None:
    """Postgres is killed."""
    site.services.kill("postgres")
    time.sleep(random.uniform(0, 0.3))
    site.services.restart("postgres")


def freeze_node(site: Site) -> None:
    """A queue node answers nothing for a while."""
    name = site.a_node()
    site.services.stop(name)
    time.sleep(random.uniform(0.1, 1.5))
    site.services.resume(name)


def freeze_worker(site: Site) -> None:
    """A worker is suspended at any step; the others continue."""
    site.suspend("drainer", random.uniform(0.5, 2.5))


def change_type(site: Site) -> None:
    """``count`` gets another type: first the table, then the code of some processes, then of all."""
    count = random.choice([each for each in TYPES if each != site.version.count])
    _migrate(site, f"ALTER COLUMN count TYPE {count}", count=count)


def change_scale(site: Site) -> None:
    """``price`` gets another number of decimal places."""
    places, work = sum(PLACES) - site.version.places, site.role.work
    if places < site.version.places:  # a person would have to decide about values that do not fit
        site.role.work = [each for each in work if each != "puts"]
        site.deploy()
        site.weigh()
    elif random.random() < 0.5:  # the code runs before its migration: what the table cannot hold yet waits
        site.role.versions = [replace(site.version, places=places), site.version]
        site.deploy()
        time.sleep(random.uniform(0.5, 1.5))
        site.role.versions.reverse()
    change = f"ALTER COLUMN price TYPE numeric(18,{places}) USING trunc(price, {places})"
    _migrate(site, change, places=places)
    site.role.work = work
    site.deploy()


def _migrate(site: Site, change: str, **attributes: Any) -> None:
    """Migrate the table, then deploy the code, sometimes to the workers before the writers."""
    old = site.version
    new = replace(old, **attributes)
    site.alter(f"ALTER TABLE {TABLE} {change}")
    time.sleep(random.uniform(0, 0.5))
    site.role.versions = [new, old]
    site.deploy()
    time.sleep(random.uniform(0, 1))
    site.role.versions = [new]
    if random.random() < 0.5:
        site.deploy(writer=site.changed(versions=[old]))
        time.sleep(random.uniform(0, 0.5))
    site.deploy()


def add_or_drop_column(site: Site) -> None:
    """A column is added, or dropped, while code with it and code without it runs side by side."""
    old = site.version
    new = replace(old, has_extra=not old.has_extra)
    if new.has_extra:
        site.alter(f"ALTER TABLE {TABLE} ADD COLUMN extra integer NOT NULL DEFAULT 0")
        site.role.work = ["sums", "puts", "lives", "extras"]
    site.role.versions = [new, old]
    site.deploy()
    lock_rows(site)  # what one version sets aside, the other may retry
    if new.has_extra:
        site.role.versions = [new]
        site.deploy()
        return
    # Drained by code with the column, before the table loses it
    site.role.work = ["sums", "puts", "lives"]
    site.role.versions = [old]
    site.weigh()
    site.role.versions = [new]
    site.deploy()
    site.alter(f"ALTER TABLE {TABLE} DROP COLUMN extra")
    site.meters.forget_extras()


def replace_nodes(site: Site) -> None:
    """The queue nodes are replaced in the documented steps, while the site runs: 1 by 1, 1 by 2, 2 by 1."""
    old, new = site.nodes, _new_nodes(site)
    moving = {"nodes": list(new.values()), "retiring": list(old.values())}
    # Old and new processes together keep the order of additions only, and old ones do not see new nodes
    site.role.work = [each for each in site.role.work if each in {"sums", "extras"}]
    site.deploy(reader=site.idle)
    site.publish(drainer=site.changed(**moving), reader=site.idle)
    time.sleep(random.uniform(0, 0.5))
    site.deploy(drainer=site.changed(**moving), reader=site.idle)
    if random.random() < 0.5:
        kill_node(site)
    site.deploy(**dict.fromkeys(("writer", "drainer"), site.changed(**moving)), reader=site.idle)
    site.role = site.changed(**moving)
    site.deploy()
    if random.random() < 0.5:
        kill_node(site)
    wait_for(lambda: site.command("nodes")["done"], site.diagnosis)
    _finish_move(site, old, new)
    site.deploy()


def replace_nodes_in_a_pause(site: Site) -> None:
    """The queue nodes are replaced while nothing writes."""
    old, new = site.nodes, _new_nodes(site)
    with site.paused("writer", "reader"):
        site.command("drain", "--timeout", "30")
        site.role = site.changed(nodes=list(new.values()), retiring=list(old.values()))
        site.deploy(writer=site.idle, reader=site.idle)
        wait_for(
            lambda: site.command("drain", "--timeout", "30") and site.command("nodes")["done"],
            site.diagnosis,
        )
        _finish_move(site, old, new)


def _new_nodes(site: Site) -> dict[str, str]:
    """Return one or two nodes, at least one of them new; an old one may stay."""
    new = [site.add_queue_node()]
    if random.random() < 0.5:
        stays = random.random() < 0.5
        new.append(random.choice(list(site.nodes.items())) if stays else site.add_queue_node())
    return dict(new)


def _finish_move(site: Site, old: dict[str, str], new: dict[str, str]) -> None:
    site.nodes = new
    site.role = site.changed(nodes=list(new.values()), retiring=[])
    site.role.work = ["sums", "puts", "lives"] + (["extras"] if site.version.has_extra else [])
    site.deploy()
    for name in old.keys() - new.keys():
        site.services.kill(name)
        shutil.rmtree(site.services.folder / name)


def change_partitions(site: Site) -> None:
    """The number of partitions changes."""
    _set_partitions(site)


def _set_partitions(site: Site) -> None:
    """Change the number, and the setting, which nodes that join later get."""
    done = site.command("partitions", str(random.randint(1, 8)), "--timeout", "30")
    site.role.partitions = done["partitions"]
    site.deploy()


def break_off_change_of_partitions(site: Site) -> None:
    """The command that changes the number of partitions, or a node meanwhile, is killed; it is run again."""
    if random.random() < 0.5:
        with suppress(RuntimeError):
            site.run(_change_partitions_until_killed, random.randint(1, 8))
    else:
        pid = os.fork()
        if not pid:
            with suppress(RuntimeError):
                site.command("partitions", str(random.randint(1, 8)))
            os._exit(0)
        time.sleep(random.uniform(0, 1))
        kill_node(site)
        os.waitpid(pid, 0)
    _set_partitions(site)


def fill_memory(site: Site) -> None:
    """A queue node is over ``maxmemory``: it takes no writes, and is drained all the same."""
    with _node(site, site.a_node()) as node:
        node.config_set("maxmemory", node.info("memory")["used_memory"] + random.choice((-10_000, 50_000)))
        time.sleep(random.uniform(0.3, 1))
        if random.random() < 0.5:
            node.config_set("maxmemory", 1_000_000)
            site.weigh()
        node.config_set("maxmemory", 0)


def shift_clocks(site: Site) -> None:
    """The clocks of processes jump, forwards and backwards."""
    site.role.clocks = [-86_400.0, -30.0, -1.5, 0.0, 1.5, 30.0, 86_400.0]
    site.deploy()
    time.sleep(random.uniform(0.5, 1.5))
    site.role.clocks = [0.0]
    site.deploy()


def lock_rows(site: Site) -> None:
    """Another transaction holds rows for longer than a drain waits for a lock."""
    with site.database() as database, database.transaction():
        database.execute(f"SELECT 1 FROM {TABLE} WHERE id %% 10 = %s FOR UPDATE", [random.randrange(10)])
        time.sleep(random.uniform(0.5, 4))


def lock_table(site: Site) -> None:
    """Another transaction holds the whole table."""
    with site.database() as database:
        database.execute("SET lock_timeout = '60s'")
        with database.transaction():
            database.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
            time.sleep(random.uniform(0.5, 4))


def fail_rows(site: Site) -> None:
    """A trigger raises an error of the server, or one that ends by itself, for some rows."""
    code = random.choice(("23505", "40001", "55006", "57014", "58030", "XX000"))
    body = f"RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'"
    with _trigger(site, f"IF NEW.id % 10 = {random.randrange(10)} THEN {body}; END IF"):
        time.sleep(random.uniform(1, 4))


def slow_table(site: Site) -> None:
    """Postgres needs long for each row, and the sessions have a low limit for statements."""
    with site.database() as database:
        database.execute("SET statement_timeout = 0")
        limit = "ALTER DATABASE %s %s statement_timeout"
        name = database.info.dbname
        database.execute(limit % (name, "SET") + " = '1s'")
        with _trigger(site, "PERFORM pg_sleep(0.03)"):
            time.sleep(random.uniform(1, 4))
        database.execute(limit % (name, "RESET"))


@contextmanager
def _trigger(site: Site, body: str) -> Iterator[None]:
    """Let a trigger run for each row that is written."""
    site.alter(
        f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;"
        f"CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION fault()"
    )
    yield
    site.alter(f"DROP TRIGGER fault ON {TABLE}; DROP FUNCTION fault")


def _node(site: Site, name: str) -> Any:
    return redis.Redis.from_url(site.nodes[name].partition("?")[0])


# In a process of the site


def _change_partitions_until_killed(_: Any, count: int) -> None:
    from django.core.management import call_command

    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.02, 0.6))
    call_command("writebehind", "partitions", str(count))


FAULTS: tuple[Callable[[Site], None], ...] = (
    kill_node,
    kill_postgres,
    freeze_node,
    freeze_worker,
    change_type,
    change_scale,
    add_or_drop_column,
    replace_nodes,
    replace_nodes_in_a_pause,
    change_partitions,
    break_off_change_of_partitions,
    fill_memory,
    shift_clocks,
    lock_rows,
    lock_table,
    fail_rows,
    slow_table,
    restore_file,
    empty_node,
)
