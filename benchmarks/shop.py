"""A shop on each contender: what its page reads and what a sale writes, in a process of its own.

The contenders patch Django, so a process has one of them. Each has tables of its own with the same rows.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from django.apps import AppConfig

from benchmarks.contenders import PEERS

__all__ = ["CACHALOT", "CACHEOPS", "CATEGORIES", "DJANGO", "OURS", "SHOPS", "Mix", "Round", "serve"]

OURS, DJANGO, CACHEOPS, CACHALOT = "ringcache x3", "Django without a cache", "cacheops", "cachalot"
SHOPS = (OURS, DJANGO, CACHEOPS, CACHALOT)
#: Categories, the products of each, and those of them that its page shows.
CATEGORIES, PRODUCTS, SHOWN = 50, 40, 20
#: Requests of one round.
REQUESTS = 100
TIMEOUT = 3600


class ShopApp(AppConfig):
    """The app of the models, which unpickling asks for."""

    name, label = __name__, "shop"


class Mix(NamedTuple):
    """Which requests come.

    Attributes:
        share: The share of requests that write a product.
        column: The column that they change.
    """

    share: float
    column: str

    def __str__(self) -> str:
        return f"{self.share:.0%} writes of {self.column}".replace("%", " %") if self.share else "no writes"


class Round(NamedTuple):
    """What a round of requests took.

    Attributes:
        page: Microseconds of a page.
        write: Microseconds of a write; None: there was none.
        queries: Queries of a page.
        last: What the last page shows, which must be the same for all contenders.
    """

    page: float
    write: float | None
    queries: float
    last: Any


class Shop:
    """A shop whose page reads a category by its slug, its first products by price, and their number.

    Args:
        name: The contender.
    """

    def __init__(self, name: str) -> None:
        self.category, self.product = _models(name)
        attribute = "cached" if name == OURS else "objects"
        self.categories: Any = getattr(self.category, attribute)
        self.products: Any = getattr(self.product, attribute)
        self._queries = 0
        _create(self.category, self.product)
        self._rows = list(self.product.objects.order_by("pk"))

    def page(self, number: int) -> Any:
        """Return what the page of a category shows."""
        category = self.categories.get(slug=f"category-{number}")
        products = list(self.list_of(category))
        count = self.products.filter(category=category).count()
        return category.title, [(each.title, each.price, each.stock) for each in products], count

    def list_of(self, category: Any) -> Any:
        """Return the queryset of the products that the page of a category shows."""
        return self.products.filter(category=category).order_by("price", "pk")[:SHOWN]

    def warm(self) -> None:
        """Read every page twice: the first read of a category by its slug does not fill its row."""
        for number in (*range(CATEGORIES), *range(CATEGORIES)):
            self.page(number)

    def warm_lists(self) -> None:
        """Read the list of every category."""
        for category in self.category.objects.order_by("pk"):
            list(self.list_of(category))

    def run(self, mix: Mix, seed: str) -> Round:
        """Answer some requests."""
        from django.db import connection

        choices, clock = random.Random(seed), time.perf_counter
        pages: list[float] = []
        writes: list[float] = []
        shown: Any = None
        self._queries = 0
        for _ in range(REQUESTS):
            if choices.random() < mix.share:
                row, value = choices.choice(self._rows), choices.randrange(10_000)
                setattr(row, mix.column, value if mix.column == "stock" else Decimal(value) / 100)
                started = clock()
                row.save()
                writes.append(clock() - started)
            else:
                number = choices.randrange(CATEGORIES)
                with connection.execute_wrapper(self._count):
                    started = clock()
                    shown = self.page(number)
                    pages.append(clock() - started)
        write = sum(writes) / len(writes) * 1e6 if writes else None
        return Round(sum(pages) / len(pages) * 1e6, write, self._queries / len(pages), shown)

    def _count(self, execute: Any, *args: Any) -> Any:
        self._queries += 1
        return execute(*args)

    def hits(self, *, quick: bool) -> Any:
        """Return the ratios of hits of single results; all rows and results are cached."""
        from django.core.cache import cache

        from benchmarks.goals import measure_ratios
        from benchmarks.pages import COUNT, GET, GOALS, IN_BULK, LIST

        category = self.categories.get(slug="category-0")
        keys = [row.pk for row in self.list_of(category)]
        of_category = self.products.filter(category=category)
        of_category.count()
        cache.set("number", PRODUCTS)
        ways = {
            IN_BULK: lambda: self.products.in_bulk(keys),
            LIST: lambda: list(self.list_of(category)),
            GET: lambda: cache.get("number"),
            COUNT: lambda: self.products.filter(category=category).count(),
        }
        return measure_ratios(GOALS, ways, quick=quick)


def serve(name: str, urls: list[str], pipe: Connection) -> None:
    """Set Django up for a contender, and run what the parent asks for until it hangs up."""
    _set_up(name, urls)
    shop = Shop(name)
    pipe.send(None)
    with suppress(EOFError):
        while True:
            method, args, kwargs = pipe.recv()
            pipe.send(getattr(shop, method)(*args, **kwargs))


def _set_up(name: str, urls: list[str]) -> None:
    import django
    import environ
    from django.conf import settings

    sys.path.insert(0, str(PEERS))
    apps = {OURS: ["cachebackend"], CACHEOPS: ["cacheops"], CACHALOT: ["cachalot"]}
    own: Mapping[str, dict[str, Any]] = {
        OURS: {
            "CACHES": {"default": {"BACKEND": "cachebackend.RingCache", "LOCATION": urls}},
        },
        CACHEOPS: {
            "CACHEOPS_REDIS": _plain(urls[0]),
            "CACHEOPS": {"shop.*": {"ops": "all", "timeout": TIMEOUT}},
        },
        CACHALOT: {
            "CACHES": {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": _plain(urls[0])}},
        },
    }
    database = environ.Env().db("DATABASE_URL") | {"CONN_MAX_AGE": None}
    settings.configure(
        INSTALLED_APPS=[*apps.get(name, []), f"{__name__}.ShopApp"],
        DATABASES={"default": database},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        **own.get(name, {}),
    )
    django.setup()


def _plain(url: str) -> str:
    """Return the URL of a node without what only our ring reads."""
    return url.partition("?")[0]


def _models(name: str) -> tuple[Any, Any]:
    """Return the models of a category and of a product."""
    from django.db import models

    managers: list[dict[str, Any]] = [{}, {}]
    if name == OURS:
        from cachebackend import CachedManager, InvalidatingManager

        managers = [
            {"objects": InvalidatingManager(), "cached": CachedManager(lookups=lookups, timeout=TIMEOUT)}
            for lookups in (["slug"], [])
        ]

    def model(kind: str, fields: dict[str, Any]) -> Any:
        table = f"shop_{SHOPS.index(name)}_{kind.lower()}"
        meta = type("Meta", (), {"app_label": "shop", "db_table": table})
        return type(kind, (models.Model,), {"__module__": __name__, "Meta": meta, **fields})

    category = model(
        "Category",
        {"slug": models.SlugField(unique=True), "title": models.CharField(max_length=100), **managers[0]},
    )
    product = model(
        "Product",
        {
            "category": models.ForeignKey(category, models.CASCADE),
            "title": models.CharField(max_length=100),
            "sku": models.CharField(max_length=20),
            "price": models.DecimalField(max_digits=8, decimal_places=2),
            "stock": models.IntegerField(),
            "is_active": models.BooleanField(default=True),
            "created": models.DateTimeField(auto_now_add=True),
            "description": models.TextField(),
            **managers[1],
        },
    )
    return category, product


def _create(category: Any, product: Any) -> None:
    """Create the tables with their rows."""
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0, interactive=False)
    with connection.schema_editor() as editor:
        editor.create_model(category)
        editor.create_model(product)
    choices = random.Random("rows")
    categories = [category(slug=f"category-{n}", title=f"Category {n}") for n in range(CATEGORIES)]
    category.objects.bulk_create(categories)
    product.objects.bulk_create(
        product(
            category=categories[number % CATEGORIES],
            title="A reasonable product title for a row",
            sku=f"SKU-{number:07}",
            price=Decimal(choices.randrange(10_000)) / 100,
            stock=choices.randrange(10_000),
            description="x" * 200,
        )
        for number in range(CATEGORIES * PRODUCTS)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
