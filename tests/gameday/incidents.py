"""The incidents, as data: how each begins and ends, and what must be shown while it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from django.db import connection

from cachebackend.models import OutboxRow
from cachebackend.monitoring.runbook import FaultKind
from cacheproject.demo.models import Article
from tests.gameday.site import ARTICLES, Site

__all__ = ["INCIDENTS", "QUICK", "Incident"]

#: The incidents that `make test` plays.
QUICK = ("node killed", "queue node full", "unreadable outbox row")
POISON = "poison"


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that goes wrong.

    Attributes:
        name: What goes wrong.
        begin: Makes it so.
        end: Repairs it, as an operator would.
        kind: The kind of fault that must be shown; None: none, only metrics show it.
        words: What the page and ``says`` must contain: the name of what is broken, and why. What ``begin``
            keeps as "words" must be there too.
        metric: A series, and how its value must be while it lasts: ``SERIES > 0``; ``AGE>`` is for
            a time, and compares the seconds since then.
        fails: The commands that must exit with 1; the others must exit with 0.
        may_fail: The commands that exit with 1 if it lasts for more than ten seconds.
        log: What a process must log; empty: nothing.
        says: The command whose output must contain the words.
        steady: Seconds for which the page must show this fault, with the words, and no other one.
    """

    name: str
    begin: Callable[[Site], None]
    end: Callable[[Site], None]
    kind: FaultKind | None
    words: tuple[str, ...]
    metric: str
    fails: tuple[str, ...] = ("ring doctor",)
    may_fail: tuple[str, ...] = ()
    log: str = ""
    says: str = "ring doctor"
    steady: float = 0.0


def nothing(site: Site) -> None:
    """Change nothing."""


def refuse_password(site: Site) -> None:
    """Give a node another password, and close its connections."""
    node = site.kept["node"] = site.node("ring-b")
    node.config_set("requirepass", "another")
    node.client_kill_filter(_type="normal", skipme=True)


def accept_password(site: Site) -> None:
    """Give the node its password back."""
    password = site.node("ring-b").connection_pool.connection_kwargs["password"]
    site.kept.pop("node").config_set("requirepass", password)


def swap_names(site: Site) -> None:
    """Deploy a second web server that has exchanged the names of two nodes."""
    a, b, *others = site.services.ring_urls
    swapped = [a.replace("name=ring-a", "name=ring-b"), b.replace("name=ring-b", "name=ring-a"), *others]
    site.start_web("web-2", RING_NODES=",".join(swapped))


def change_prefix(site: Site) -> None:
    """Deploy a second web server with another prefix."""
    site.start_web("web-2", RING_KEY_PREFIX="other")


def change_codec(site: Site) -> None:
    """Deploy a second web server with another codec."""
    site.start_web("web-2", RING_OPTIONS='{"codec": "msgpack"}')


def end_second_web(site: Site) -> None:
    """End the second web server."""
    site.end_process("web-2")


def fill_queue_node(site: Site) -> None:
    """Set a limit to the memory of the queue node that it has reached."""
    site.node("queue-a").config_set("maxmemory", "1mb")


def enlarge_queue_node(site: Site) -> None:
    """Remove the limit."""
    site.node("queue-a").config_set("maxmemory", "0")


def lock_row(site: Site) -> None:
    """Hold the lock of the rows that are viewed, in a session that then does nothing."""
    session = site.kept["session"] = psycopg.connect(str(site.services.database_url))
    session.execute("SELECT 1 FROM demo_article WHERE slug = ANY(%s) FOR UPDATE", [ARTICLES])
    site.kept["words"] = [f"SELECT pg_terminate_backend({session.info.backend_pid})"]


def lock_partitions(site: Site) -> None:
    """Hold the locks of the partitions, as a worker does whose machine has gone."""
    session = site.kept["session"] = psycopg.connect(str(site.services.database_url))
    session.execute("SELECT 1 FROM cachebackend_writebehindcheckpoint FOR UPDATE")
    site.kept["words"] = [f"SELECT pg_terminate_backend({session.info.backend_pid})"]


def unlock(site: Site) -> None:
    """End the session."""
    site.kept.pop("session").close()
    site.kept.pop("words")


def queue_poison(site: Site) -> None:
    """Queue a write that a constraint of the table refuses."""
    connection.close()  # an earlier incident may have ended the server
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE demo_article ADD CONSTRAINT few_views CHECK (views < 1000000000) NOT VALID"
        )
    Article.behind.update(Article.objects.get(slug=POISON).pk, views=2_000_000_000)


def discard_poison(site: Site) -> None:
    """Discard the write."""
    assert site.command("writebehind discard --all --yes").code == 0
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE demo_article DROP CONSTRAINT few_views")
    connection.close()


def store_damaged_row(site: Site) -> None:
    """Store an outbox row whose bytes are not MessagePack."""
    connection.close()
    OutboxRow.objects.create(keys=b"\xc1 is never used")


def discard_damaged_row(site: Site) -> None:
    """Delete it."""
    assert site.command("invalidation discard").code == 0
    connection.close()


def evict(site: Site) -> None:
    """Fill a node far beyond its memory."""
    node = site.node("ring-b")
    node.config_set("maxmemory", "4mb")
    with node.pipeline(transaction=False) as pipeline:
        for number in range(8000):
            pipeline.set(f"filler-{number}", b"x" * 1024)
        pipeline.execute(raise_on_error=False)


def end_eviction(site: Site) -> None:
    """Give the node its memory back."""
    node = site.node("ring-b")
    node.flushall()
    node.config_set("maxmemory", "256mb")


def empty_queue_node(site: Site) -> None:
    """Empty the queue node, as a restart without its file does."""
    site.node("queue-a").flushall()


def repair_queue(site: Site) -> None:
    """Accept that what was queued is lost."""
    site.command("writebehind repair --drop")


def process(name: str) -> tuple[Callable[[Site], None], Callable[[Site], None]]:
    """Return what ends a process, and what starts it again."""
    return lambda site: site.end_process(name), lambda site: site.start_process(name)


def killed(name: str) -> tuple[Callable[[Site], None], Callable[[Site], None]]:
    """Return what kills a server, and what starts it again."""
    return lambda site: site.services.kill(name), lambda site: site.services.restart(name)


def _up(node: str) -> str:
    return f'ringcache_node_up{{alias="default",node="{node}"}} == 0'


_RING_DOWN = ("ring doctor", "ring status")
_QUEUE_DOWN = ("ring doctor", "writebehind status")
_DIFFERS = "ringcache_processes_differing > 0"


def _node_down(
    name: str, node: str, begin: Callable[[Site], None], end: Callable[[Site], None], *words: str
) -> Incident:
    """Return an incident in which a ring node does not serve."""
    return Incident(
        name,
        begin,
        end,
        FaultKind.NODE_DOWN,
        (node, *words),
        _up(node),
        fails=_RING_DOWN,
        may_fail=("invalidation status",),
        log=node,
    )


INCIDENTS = [
    _node_down("node killed", "ring-a", *killed("ring-a")),
    _node_down(
        "node hung",
        "ring-b",
        lambda site: site.services.stop("ring-b"),
        lambda site: site.services.resume("ring-b"),
    ),
    _node_down("node with another password", "ring-b", refuse_password, accept_password, "password"),
    Incident(
        "node restarted empty",
        lambda site: site.services.restart("ring-c"),
        nothing,
        None,
        ("ring-c", "restarted"),
        'ringcache_node_uptime_seconds{alias="default",node="ring-c"} < 10',
        fails=(),
        says="ring events",
    ),
    Incident(
        "evictions",
        evict,
        end_eviction,
        None,
        ("ring-b", "evicted"),
        'ringcache_node_evicted_keys_total{alias="default",node="ring-b"} > 1000',
        fails=(),
        says="ring status",
    ),
    Incident(
        "two names swapped in one process",
        swap_names,
        end_second_web,
        FaultKind.SETTINGS_DIFFER,
        ("ring-a", "ring-b", "has other settings"),
        _DIFFERS,
    ),
    Incident(
        "another prefix in one process",
        change_prefix,
        end_second_web,
        FaultKind.SETTINGS_DIFFER,
        ("KEY_PREFIX", "'other'"),
        _DIFFERS,
    ),
    Incident(
        "another codec in one process",
        change_codec,
        end_second_web,
        FaultKind.SETTINGS_DIFFER,
        ("codec", "'msgpack'"),
        _DIFFERS,
    ),
    Incident(
        "worker stopped",
        *process("worker"),
        FaultKind.WRITES_WAIT,
        ("'drains'",),
        'ringcache_behind_partitions{reason="no worker"} > 0',
        fails=_QUEUE_DOWN,
    ),
    Incident(
        "beat stopped",
        *process("beat"),
        FaultKind.NO_BEAT,
        ("beat does not",),
        "ringcache_task_last_run_timestamp_seconds AGE> 10",
        may_fail=("writebehind status", "invalidation status"),
    ),
    Incident(
        "periodic worker stopped",
        *process("periodic"),
        FaultKind.NO_WORKER,
        ("'periodic'",),
        "ringcache_task_last_run_timestamp_seconds AGE> 10",
        may_fail=("writebehind status", "invalidation status"),
    ),
    Incident(
        "Postgres stopped",
        *killed("postgres"),
        FaultKind.DATABASE_DOWN,
        ("PostgreSQL", "does not answer"),
        "ringcache_outbox_up == 0",
        fails=("ring doctor", "writebehind status", "invalidation status"),
        log="database",
    ),
    Incident(
        "Postgres hung",
        lambda site: site.services.stop("postgres"),
        lambda site: site.services.resume("postgres"),
        FaultKind.DATABASE_DOWN,
        ("PostgreSQL", "does not answer", "no answer within 3 s"),
        "ringcache_outbox_up == 0",
        fails=("ring doctor", "writebehind status", "invalidation status"),
        steady=30,
    ),
    Incident(
        "partitions locked in Postgres",
        lock_partitions,
        unlock,
        FaultKind.PARTITION_BLOCKED,
        ("idle in transaction", "holds the lock of the partition"),
        'ringcache_behind_partitions{reason="blocked"} > 0',
        fails=_QUEUE_DOWN,
        steady=30,
    ),
    Incident(
        "rows locked in Postgres",
        lock_row,
        unlock,
        FaultKind.PARTITION_BLOCKED,
        ("idle in transaction", "holds rows that"),
        'ringcache_behind_partitions{reason="blocked"} > 0',
        fails=_QUEUE_DOWN,
        steady=30,
    ),
    Incident(
        "poison row",
        queue_poison,
        discard_poison,
        FaultKind.WRITES_PARKED,
        ("parked", "refused"),
        "ringcache_behind_parked > 0",
        fails=_QUEUE_DOWN,
        log="parked",
    ),
    Incident(
        "unreadable outbox row",
        store_damaged_row,
        discard_damaged_row,
        FaultKind.OUTBOX_UNREADABLE,
        ("cannot be read", "nothing is stale", "invalidation discard"),
        "ringcache_outbox_rows > 0",
        fails=("ring doctor", "invalidation status"),
        log="cannot be read",
    ),
    Incident(
        "queue node killed",
        *killed("queue-a"),
        FaultKind.QUEUE_NODE_DOWN,
        ("queue-a",),
        'ringcache_queue_node_up{node="queue-a"} == 0',
        fails=_QUEUE_DOWN,
        log="queue-a",
    ),
    Incident(
        "queue node full",
        fill_queue_node,
        enlarge_queue_node,
        FaultKind.QUEUE_NODE_FULL,
        ("queue-a", "full", "maxmemory"),
        "ringcache_behind_refused_total > 0",
        fails=_QUEUE_DOWN,
        log="maxmemory",
    ),
    Incident(
        "queue node emptied",
        empty_queue_node,
        repair_queue,
        FaultKind.PARTITION_STOPPED,
        ("demo.article", "is lost", "repair --keep"),
        'ringcache_behind_partitions{reason="stopped"} > 0',
        fails=_QUEUE_DOWN,
    ),
]
