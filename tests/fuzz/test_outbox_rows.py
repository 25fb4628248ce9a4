"""Outbox rows of every shape, right and wrong, as the relay, the probe of a node and the page read them."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import ormsgpack
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache, invalidation
from cachebackend.errors import RingCacheError
from cachebackend.invalidation.outbox import ClientOutbox, new_row
from cachebackend.invalidation.set_aside import delete_set_aside
from cachebackend.models import OutboxRow
from cachebackend.monitoring import key_figures, outbox_figures
from cachebackend.monitoring.outbox import pending_by_node
from tests.fuzz.mutants import count, mutant
from tests.shop.models import Author

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: The most bytes that a page of such rows may take at once.
MAX_BYTES = 64 * 2**20
#: Values of columns as triggers write them, and as they do not.
TEXTS = [
    None, "", "1", "-1", "abc", "9" * 30, "9" * 6000, "infinity", "0044-03-15 BC", "1 mon", "24:00:00", "NaN",
    "\\xdeadbeef", "\\xzz", "💥" * 50, "00000000-0000-0000-0000-000000000001", 5, 1.5, True, [], {},
]  # fmt: skip
LABELS = ["shop.author", "SHOP.Author", "zoo.moment", "shop.poem", "shop.sonnet", "auth.user", "shop.gone"]
ODD_LABELS = [".", "a.b.c", "shop.", "'", "x" * 200, "shop\n.author"]
COLUMNS = [
    "id",
    "pk",
    "name",
    "code",
    "author_id",
    "title",
    "poem_ptr_id",
    "at",
    "day",
    "amount",
    "__class__",
]
TIMES = ["now()", "now() - interval '5 s'", "'infinity'", "'-infinity'", "'0044-03-15 BC'", "'20000-01-01'"]
AGE = "UPDATE cachebackend_outboxrow SET created = created - interval '5 s' WHERE isfinite(created)"
#: Tags of the formats of MessagePack that declare a length.
_LENGTHS = [
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x81" * 2000,
    b"\x81\xa7default\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000,
]
#: JSON whose text is far longer than its stored form.
_EXPANDING = [f'[{{"id": [{"1e131071, " * 9000}0]}}]', '[{"id": "' + "\\u0001" * 500_000 + '"}]']


def packed(generator: random.Random, seeds: list[bytes]) -> bytes:
    """Return the bytes of keys: right, damaged, or MessagePack of another shape."""
    anything: list[Any] = [None, 5, "text", b"k", [b"k"], {"a": 1}, {"default": None}, {"default": [[b"k"]]}]
    match generator.randrange(4):
        case 0:
            return ormsgpack.packb(generator.choice(anything))
        case 1:
            return ormsgpack.packb({generator.choice(["default", "gone", ""]): generator.choice(anything)})
        case 2:
            return generator.choice(_LENGTHS)
        case _:
            return mutant(generator, seeds)


def columns(generator: random.Random) -> Any:
    """Return the JSON of a trigger's rows: right in its form, or not."""
    rows: Any = [
        {
            name: generator.choice(TEXTS)
            for name in generator.sample(COLUMNS, generator.randrange(len(COLUMNS)))
        }
        for _ in range(generator.randrange(4))
    ]
    match generator.randrange(8):
        case 0:
            return generator.choice(["null", "5", '"text"', "[[]]", "[" * 2000 + "]" * 2000, "{}", "[1e999]"])
        case 1:
            return None
        case 2:
            return generator.choice(_EXPANDING)
        case _:
            return json.dumps(rows)


def insert(generator: random.Random, seeds: list[bytes], nodes: list[str]) -> str:
    """Insert a row; return its description."""
    row: dict[str, Any] = {
        "keys": b"" if (is_trigger := generator.random() < 0.6) else packed(generator, seeds),
        "node": generator.choice([*nodes, "gone", "x" * 500]) if generator.random() < 0.15 else "",
        "label": generator.choice(LABELS if generator.random() < 0.8 else ODD_LABELS) if is_trigger else "",
        "rows": columns(generator) if is_trigger else None,
        "is_intent": generator.random() < 0.1,
        "transaction_id": generator.choice([None, 1, -(2**63)]),
        "error": generator.choice(["", "", "", "", "an error of a newer release"]),
    }
    time = generator.choice(TIMES)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO cachebackend_outboxrow (created, {', '.join(row)}) "
            f"VALUES ({time}, {', '.join(['%s'] * len(row))})",
            list(row.values()),
        )
    return f"{row!r:.400} created {time}"


def test_no_outbox_row_stops_the_others(ring_cache: RingCache) -> None:
    """Beside it a delete arrives; only errors of this package are raised, and it is deleted or set aside."""
    generator, tried = random.Random(random.getrandbits(32)), count(8)
    client, page, ring = Client(), reverse("admin:cachebackend_ring_changelist"), ring_cache.client
    client.force_login(User.objects.create_superuser("root"))
    author, nodes = Author.objects.create(name="Sappho"), [node.endpoint for node in ring.nodes]
    row_key = Author.cached.keys_of([{"pk": author.pk, "name": "Sappho"}], "default")
    seeds = [bytes(new_row({"default": [ring_cache.key_bytes("other"), *row_key]}).keys)]
    readers: dict[str, Callable[[], object]] = {
        "probe": lambda: ClientOutbox(ring).missed_by(nodes[0], 1000),
        "figures": outbox_figures,
        "by node": lambda: pending_by_node({"default": ring}, {"default": [True] * len(nodes)}),
        "key": lambda: key_figures("default", "k", None, shows_value=False),
        "relay": invalidation.relay,
    }
    set_aside = 0
    tracemalloc.start()
    try:
        for turn in tried:
            Author.cached.get(name="Sappho")
            ring_cache.set("k", "old", None)
            OutboxRow.objects.all().delete()
            done = [insert(generator, seeds, nodes) for _ in range(generator.randrange(1, 4))]
            new_row({"default": [ring_cache.key_bytes("k")]}).save()
            with connection.cursor() as cursor:
                cursor.execute(AGE)
            for name, read in readers.items():
                try:
                    read()
                except RingCacheError:
                    raise
                except Exception as error:
                    raise AssertionError(f"{name} of {done}: {type(error).__name__}: {error}") from error
            assert ring_cache.get("k") is None, done
            left = list(OutboxRow.objects.defer("rows", "created").filter(error="", is_intent=False))
            assert not left, done
            if turn % 20 == 0:
                assert client.get(page, {"alias": "default", "key": "k"}).status_code == 200, done
            set_aside += delete_set_aside("default")
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
    print(f"{len(tried)} rounds of outbox rows, {set_aside} rows set aside")
    assert set_aside
