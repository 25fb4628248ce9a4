"""Kinds of queries: what a page may ask of models with every kind of relation.

A kind is a function that returns a queryset, given a source of constants. ``KINDS`` has them all by name.
``UNCACHED`` names those whose results are not cached, each with a word of the reason.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias

from django.contrib.postgres.aggregates import ArrayAgg
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import (
    BooleanField,
    Case,
    CharField,
    Count,
    Exists,
    ExpressionWrapper,
    F,
    FilteredRelation,
    Func,
    IntegerField,
    Max,
    Model,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    TextChoices,
    Value,
    When,
    Window,
)
from django.db.models.expressions import RawSQL
from django.db.models.functions import (
    Cast,
    Coalesce,
    Collate,
    Concat,
    Length,
    Lower,
    Now,
    Random,
    RowNumber,
    TruncMonth,
)
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from tests.zones import Zone
from tests.zoo.models import (
    Author,
    Bar,
    Boat,
    Branch,
    Credit,
    Desk,
    EarlyPlace,
    Inn,
    Kiosk,
    Label,
    Letter,
    Mark,
    Nickname,
    Novel,
    Place,
    Poem,
    Post,
    Price,
    Pub,
    Reply,
    Seat,
    Shelf,
    Stock,
    Token,
    Visit,
)
from tests.zoo.models import Sum as ZooSum

__all__ = ["KINDS", "UNCACHED", "Constants", "Query"]

Query: TypeAlias = "QuerySet[Any, Any]"


class Constants:
    """Constants of queries, drawn from the few values that rows have.

    Args:
        source: The source of chance.
    """

    TEXTS = ("a", "b", "c", "d", "A")
    MOMENTS = tuple(datetime(2026, month, 1, 12, tzinfo=UTC) for month in (1, 2, 3))
    DAYS = tuple(date(2026, 1, day) for day in (1, 2, 3))
    DECIMALS = (Decimal("1.00"), Decimal("2.50"), Decimal(3))
    CODES = tuple(uuid.UUID(int=number) for number in (1, 2, 3))

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def key(self) -> int:
        return self._source.randint(1, 4)

    def number(self) -> int:
        return self._source.randint(0, 3)

    def numbers(self, most: int = 3) -> list[int]:
        return [self.number() for _ in range(self._source.randint(1, most))]

    def text(self) -> str:
        return self._source.choice(self.TEXTS)

    def texts(self) -> list[str]:
        return [self.text() for _ in range(2)]

    def zone(self) -> tzinfo:
        """Return one of two zones that have the same name."""
        return self._source.choice((Zone(0), Zone(1)))

    def moment(self) -> datetime:
        return self._source.choice(self.MOMENTS)

    def day(self) -> date:
        return self._source.choice(self.DAYS)

    def decimal(self) -> Decimal:
        return self._source.choice(self.DECIMALS)

    def code(self) -> uuid.UUID:
        return self._source.choice(self.CODES)

    def flag(self) -> bool:
        return self._source.random() < 0.5


Kind: TypeAlias = Callable[[Constants], Query]


class Letters(TextChoices):
    A = "a"
    B = "b"


class Shout(Func):
    """A function that the project defines."""

    function = "UPPER"
    output_field = CharField()


def prefetched(model: type[Model], relation: str) -> Query:
    """Return the query of ``prefetch_related`` for two rows of a model."""
    rows = [model(pk=1), model(pk=2)]
    queryset: Query = getattr(rows[0], relation).get_prefetch_querysets(rows)[0]
    return queryset


#: Queries of one table.
_ONE: dict[str, Kind] = {
    "all": lambda c: Author.objects.all(),
    "get": lambda c: Author.objects.filter(pk=c.key()),
    "get by text": lambda c: Author.objects.filter(name=c.text()),
    "number": lambda c: Author.objects.filter(rank=c.number()),
    "number as text": lambda c: Author.objects.filter(rank=str(c.number())),
    "number as float": lambda c: Author.objects.filter(rank=float(c.number())),
    "number as flag": lambda c: Author.objects.filter(rank=True),
    "values of one number": lambda c: Author.objects.filter(rank=c.number()).values_list("name"),
    "in": lambda c: Author.objects.filter(rank__in=c.numbers()),
    "in with None": lambda c: Author.objects.filter(rank__in=[c.number(), None]),
    "in a tuple of texts": lambda c: Author.objects.filter(name__in=tuple(c.texts())),
    "in many": lambda c: Author.objects.filter(rank__in=range(c.number(), 40)),
    "in nothing": lambda c: Author.objects.filter(rank__in=[]),
    "none": lambda c: Author.objects.none(),
    "twice": lambda c: Author.objects.filter(rank=c.number(), name__in=c.texts()).filter(
        rank__in=c.numbers()
    ),
    "contradiction": lambda c: Author.objects.filter(rank=1).filter(rank=2),
    "or": lambda c: Author.objects.filter(Q(rank=c.number()) | Q(name=c.text())),
    "or of one": lambda c: Author.objects.filter(Q(Q(rank=c.number()), _connector=Q.OR)),
    "and in or": lambda c: Author.objects.filter(Q(rank=c.number(), name=c.text()) | Q(pk=c.key())),
    "or in and": lambda c: Author.objects.filter(Q(rank=1) | Q(rank=2), name=c.text()),
    "xor": lambda c: Author.objects.filter(Q(rank=c.number()) ^ Q(name=c.text())),
    "not": lambda c: Author.objects.filter(~Q(rank=c.number())),
    "not not": lambda c: Author.objects.filter(~~Q(rank=c.number())),
    "exclude": lambda c: Author.objects.exclude(rank=c.number()),
    "exclude all": lambda c: Author.objects.exclude(pk__in=[]),
    "exclude two": lambda c: Author.objects.exclude(rank=c.number(), name=c.text()),
    "range": lambda c: Author.objects.filter(rank__range=(c.number(), 2)),
    "greater": lambda c: Author.objects.filter(rank__gt=c.number()),
    "ignoring case": lambda c: Author.objects.filter(name__iexact=c.text()),
    "contains": lambda c: Author.objects.filter(name__contains=c.text()),
    "column": lambda c: Author.objects.filter(rank=F("id")),
    "column plus": lambda c: Author.objects.filter(rank=F("id") - c.number()),
    "constant expression": lambda c: Author.objects.filter(rank=Value(c.number())),
    "order": lambda c: Author.objects.filter(rank__lt=3).order_by("-name"),
    "slice": lambda c: Author.objects.order_by("-rank", "pk")[1:3],
    "slice of number": lambda c: Author.objects.filter(rank=c.number()).order_by("-pk")[:1],
    "only": lambda c: Author.objects.only("name").filter(rank=c.number()),
    "defer": lambda c: Author.objects.defer("rank"),
    "values distinct": lambda c: Author.objects.values("rank").distinct(),
    "distinct on": lambda c: Author.objects.order_by("rank", "-pk").distinct("rank"),
    "distinct on with values": lambda c: (
        Author.objects.order_by("rank", "-name").distinct("rank").values("name")
    ),
    "annotate column": lambda c: Author.objects.annotate(x=F("rank")).filter(x=c.number()),
    "annotate concat": lambda c: Author.objects.annotate(
        x=Concat("name", Value("-"), Cast("rank", CharField()))
    ),
    "annotate case": lambda c: Author.objects.annotate(
        x=Case(When(rank=c.number(), then=Value(1)), default=Value(0), output_field=IntegerField())
    ),
    "order by case": lambda c: Author.objects.order_by(
        Case(When(rank=c.number(), then=0), default=1, output_field=IntegerField()), "pk"
    ),
    "order by lower": lambda c: Author.objects.order_by(Lower("name").desc(), "pk"),
    "order by position": lambda c: Author.objects.values_list("name", "rank").order_by(
        F("rank").asc(), F("name").asc()
    ),
    "order by annotation": lambda c: Author.objects.annotate(x=F("rank") * 2).order_by("x", "pk"),
    "alias": lambda c: Author.objects.alias(x=Length("name")).filter(x=c.number(), rank=c.number()),
    "alias of a group": lambda c: (
        Poem.objects.alias(n=Count("author__letter")).filter(n__lt=2).order_by("pk")
    ),
    "alias in order": lambda c: Author.objects.alias(x=F("rank") % 2).order_by("x", "pk"),
    "alias of a subquery": lambda c: Author.objects.alias(
        x=Exists(Poem.objects.filter(author=OuterRef("pk"), rank=c.number()))
    ).filter(x=True),
    "cast": lambda c: Author.objects.filter(rank=Cast(Value(str(c.number())), IntegerField())),
    "cast column": lambda c: Author.objects.annotate(x=Cast("rank", CharField())).filter(x=str(c.number())),
    "cast in order": lambda c: Author.objects.order_by(Cast("rank", CharField()), "pk"),
    "cast of related": lambda c: Poem.objects.filter(author__rank=Cast("rank", IntegerField())),
    "cast in alias": lambda c: Author.objects.alias(x=Cast("rank", CharField())).filter(
        x__lt=str(c.number())
    ),
    "second model of a table": lambda c: Reply.objects.filter(rank=c.number()),
    "second model in order": lambda c: Reply.objects.order_by("rank", "pk"),
    "collate": lambda c: Author.objects.filter(name=Collate(Value(c.text()), "C")),
    "collate column": lambda c: (
        Author.objects.annotate(x=Collate("name", "C")).filter(x=c.text()).order_by("x")
    ),
    "group": lambda c: Author.objects.values("rank").annotate(n=Count("*")).order_by("rank"),
    "group having": lambda c: (
        Author.objects.values("rank").annotate(n=Count("pk")).filter(n__gt=1).order_by("rank")
    ),
    "group of number": lambda c: (
        Author.objects.filter(rank=c.number()).values("rank").annotate(n=Max("name"))
    ),
    "window": lambda c: Author.objects.annotate(n=Window(RowNumber(), partition_by="rank", order_by="name")),
    "window filter": lambda c: Author.objects.annotate(
        n=Window(RowNumber(), partition_by="rank", order_by="name")
    ).filter(n=1, rank__in=c.numbers()),
    "window of values": lambda c: (
        Author.objects.values("name").annotate(n=Window(Count("*"), partition_by="rank")).order_by("name")
    ),
    "enum": lambda c: Author.objects.filter(name=Letters.A),
    "safe text": lambda c: Author.objects.filter(name=mark_safe(c.text())),
    "lazy text": lambda c: Author.objects.filter(name=gettext_lazy("a")),
    "union": lambda c: Author.objects.filter(rank=c.number()).union(Author.objects.filter(name=c.text())),
    "union all": lambda c: Author.objects.filter(rank=1).union(Author.objects.filter(rank=2), all=True),
    "union of models": lambda c: Author.objects.values_list("name", "rank").union(
        Label.objects.filter(rank=c.number()).values_list("name", "rank")
    ),
    "union in order": lambda c: (
        Author.objects.filter(rank=c.number())
        .union(Author.objects.filter(name=c.text()))
        .order_by("-rank", "id")[:2]
    ),
    "union of nothing": lambda c: Author.objects.none().union(Author.objects.filter(rank=c.number())),
    "intersection": lambda c: Author.objects.filter(rank__gt=0).intersection(
        Author.objects.filter(name__lt="c")
    ),
    "difference": lambda c: Author.objects.all().difference(Author.objects.filter(rank=c.number())),
    "reverse": lambda c: Author.objects.order_by("rank", "pk").reverse(),
    "dates": lambda c: Novel.objects.dates("day", "month"),
    "datetimes": lambda c: Novel.objects.datetimes("since", "month"),
}
#: Columns of every type.
_TYPES: dict[str, Kind] = {
    "decimal": lambda c: Novel.objects.filter(price=c.decimal()).values("name"),
    "decimal as text": lambda c: Novel.objects.filter(price="2.5").values("name"),
    "decimal as number": lambda c: Novel.objects.filter(price__in=[1, 3]).values("name"),
    "flag": lambda c: Novel.objects.filter(is_sold=c.flag()).values_list("pk"),
    "flag as number": lambda c: Novel.objects.filter(is_sold=1).values_list("pk"),
    "bare flag": lambda c: Novel.objects.filter(ExpressionWrapper(F("is_sold"), BooleanField())).values_list(
        "pk"
    ),
    "not a flag": lambda c: Novel.objects.filter(
        ~ExpressionWrapper(F("is_sold"), BooleanField())
    ).values_list("pk"),
    "moment": lambda c: Novel.objects.filter(since=c.moment()).values("name"),
    "moment of one of two zones": lambda c: Novel.objects.filter(since=c.moment().replace(tzinfo=c.zone())),
    "moment elsewhere": lambda c: Novel.objects.filter(
        since=c.moment().astimezone(timezone(timedelta(hours=5)))
    ).values("name"),
    "year": lambda c: Novel.objects.filter(since__year=2026).values("name"),
    "month": lambda c: (
        Novel.objects.annotate(m=TruncMonth("since")).values("m").annotate(n=Count("pk")).order_by("m")
    ),
    "day": lambda c: Novel.objects.filter(day=c.day()).values("name"),
    "uuid": lambda c: Novel.objects.filter(code=c.code()).values("name"),
    "uuid as text": lambda c: Novel.objects.filter(code=str(c.code()).upper()).values("name"),
    "float": lambda c: Novel.objects.filter(weight=float(c.number())).values("name"),
    "is null": lambda c: Novel.objects.filter(price=None).values("name"),
    "is not null": lambda c: Novel.objects.filter(price__isnull=False).values("name"),
    "generated": lambda c: Novel.objects.filter(loud=c.text().upper()).values("name"),
    "order by generated": lambda c: Novel.objects.filter(is_sold=False).order_by("loud", "pk").values("pk"),
    "generated number": lambda c: ZooSum.objects.filter(twice__in=[0, 4]).values("rank"),
    "generated value": lambda c: ZooSum.objects.order_by("pk").values_list("twice"),
    "database default": lambda c: Nickname.objects.filter(code=c.number()).values("name"),
    "null text": lambda c: Nickname.objects.filter(name=None).values("code"),
    "json": lambda c: Novel.objects.filter(data__a=c.number()).values("name"),
    "json value": lambda c: Novel.objects.values_list("data__a", flat=True).order_by("pk"),
    "json whole": lambda c: Novel.objects.filter(data={"a": c.number()}).values("name"),
    "json has key": lambda c: Novel.objects.filter(data__has_key="a").values("name"),
    "padded text": lambda c: Visit.objects.filter(city=c.text()).values("name"),
    "composite key": lambda c: Stock.objects.filter(pk=(c.number(), c.text())),
    "composite keys": lambda c: Stock.objects.filter(pk__in=[(1, "a"), (c.number(), c.text())]),
    "composite values": lambda c: Stock.objects.filter(shop=c.number()).values("pk", "rank").order_by("pk"),
    "composite count": lambda c: Stock.objects.values("shop").annotate(n=Count("sku")).order_by("shop"),
    "uuid key": lambda c: Token.objects.filter(pk=c.code()),
    "decimal key": lambda c: Price.objects.filter(amount=c.decimal()),
}
#: Queries over several tables.
_RELATIONS: dict[str, Kind] = {
    "foreign key": lambda c: Poem.objects.filter(author=c.key()),
    "foreign key instance": lambda c: Poem.objects.filter(author=Author(pk=c.key())),
    "foreign key id": lambda c: Poem.objects.filter(author_id=c.key()),
    "foreign key pk": lambda c: Poem.objects.filter(author__pk__in=[c.key(), c.key()]),
    "foreign key to a text": lambda c: Novel.objects.filter(shelf=c.text()).values("name"),
    "foreign key is null": lambda c: Poem.objects.filter(author=None),
    "foreign key is not null": lambda c: Poem.objects.filter(author__isnull=False),
    "foreign key in a query": lambda c: Poem.objects.filter(
        author__in=Author.objects.filter(rank=c.number())
    ),
    "foreign key in a sliced query": lambda c: Poem.objects.filter(
        author__in=Author.objects.order_by("-rank", "pk")[:2]
    ),
    "foreign key in values": lambda c: Poem.objects.filter(author__name__in=Label.objects.values("name")),
    "related text": lambda c: Poem.objects.filter(author__name=c.text()),
    "related null": lambda c: Poem.objects.filter(author__novels__isnull=True).order_by("pk"),
    "related column null": lambda c: Letter.objects.filter(author__desk__name=None),
    "related column is null": lambda c: Branch.objects.filter(parent__parent=None),
    "related isnull with price": lambda c: Author.objects.filter(novels__price__isnull=True).order_by("pk"),
    "related or": lambda c: Poem.objects.filter(Q(author__name=c.text()) | Q(rank=c.number())),
    "related or null": lambda c: Poem.objects.filter(Q(author__rank=c.number()) | Q(author=None)),
    "exclude related": lambda c: Author.objects.exclude(poem__rank=c.number()),
    "exclude two related": lambda c: Author.objects.exclude(poem__rank=c.number(), poem__name=c.text()),
    "exclude nullable": lambda c: Poem.objects.exclude(author__rank=c.number()),
    "reverse twice": lambda c: Author.objects.filter(poem__rank=c.number()).filter(poem__name=c.text()),
    "reverse once": lambda c: Author.objects.filter(poem__rank=c.number(), poem__name=c.text()),
    "reverse distinct": lambda c: Author.objects.filter(poem__rank__gt=c.number()).distinct(),
    "self": lambda c: Branch.objects.filter(parent__rank=c.number()),
    "self children": lambda c: Branch.objects.filter(children__name=c.text()),
    "self twice": lambda c: Branch.objects.filter(parent__parent__rank=c.number()),
    "select related": lambda c: Poem.objects.select_related("author").order_by("pk"),
    "select related of one": lambda c: Poem.objects.filter(author=c.key()).select_related("author"),
    "select related of text": lambda c: Poem.objects.filter(author__name=c.text()).select_related("author"),
    "select related of many": lambda c: Novel.objects.select_related(
        "author", "genre", "sequel__author"
    ).order_by("pk"),
    "select related of two": lambda c: Novel.objects.filter(
        author__rank=c.number(), sequel__genre__rank=c.number()
    ).select_related("author", "sequel__genre"),
    "select related in order": lambda c: Poem.objects.select_related("author").order_by("author__rank", "pk")[
        :3
    ],
    "select related of one to one": lambda c: Desk.objects.select_related("author").order_by("pk"),
    "select related deep": lambda c: Branch.objects.select_related("parent__parent").filter(rank=c.number()),
    "select related reverse": lambda c: Author.objects.select_related("desk").order_by("pk"),
    "select related reverse of one": lambda c: Author.objects.select_related("desk").filter(pk=c.key()),
    "select related both": lambda c: Credit.objects.select_related("post", "label").order_by("pk"),
    "select related only": lambda c: (
        Poem.objects.select_related("author").only("name", "author__name").order_by("pk")
    ),
    "select related prequel": lambda c: Novel.objects.select_related("prequel").order_by("pk").defer("data"),
    "meta ordering": lambda c: Novel.objects.values_list("name", flat=True),
    "meta ordering of one": lambda c: Novel.objects.filter(genre=c.key()).values_list("name", flat=True),
    "order by related": lambda c: Poem.objects.order_by("author__rank", "pk"),
    "order by related F": lambda c: Poem.objects.order_by(F("author__name").desc(nulls_last=True), "pk"),
    "order by related model": lambda c: Novel.objects.order_by("genre", "pk").values("pk"),
    "order by foreign key": lambda c: Poem.objects.order_by("author_id", "pk"),
    "values of related": lambda c: Poem.objects.order_by("pk").values("name", "author__name"),
    "values of related of one": lambda c: (
        Poem.objects.filter(author=c.key()).values("author__rank").order_by("pk")
    ),
    "annotate related": lambda c: Poem.objects.annotate(x=Coalesce("author__name", Value("?"))).order_by(
        "pk"
    ),
    "annotate related column": lambda c: Poem.objects.annotate(x=F("author__rank")).order_by("pk"),
    "count related": lambda c: Author.objects.annotate(n=Count("poem")).order_by("pk"),
    "count related distinct": lambda c: Author.objects.annotate(
        n=Count("poem", distinct=True), m=Count("letter", distinct=True)
    ).order_by("pk"),
    "count with filter": lambda c: Author.objects.annotate(
        n=Count("poem", filter=Q(poem__rank=c.number()))
    ).order_by("pk"),
    "sum of related": lambda c: (
        Author.objects.filter(rank=c.number()).annotate(n=Sum("poem__rank")).order_by("pk")
    ),
    "order by count": lambda c: Author.objects.annotate(n=Count("poem")).order_by("-n", "pk")[:2],
    "having count": lambda c: (
        Author.objects.annotate(n=Count("poem")).filter(n=c.number(), rank__lt=3).order_by("pk")
    ),
    "group by related": lambda c: (
        Poem.objects.values("author__name").annotate(n=Count("pk")).order_by("author__name")
    ),
    "array of related": lambda c: Author.objects.annotate(
        n=ArrayAgg("poem__name", order_by=["poem__name"], filter=Q(poem__rank__lt=3))
    ).order_by("pk"),
    "exists": lambda c: Author.objects.filter(
        Exists(Poem.objects.filter(author=OuterRef("pk"), rank=c.number()))
    ),
    "not exists": lambda c: Author.objects.filter(
        ~Exists(Poem.objects.filter(author=OuterRef("pk"), name=c.text()))
    ),
    "annotate exists": lambda c: Author.objects.annotate(
        x=Exists(Poem.objects.filter(author=OuterRef("pk")))
    ).order_by("pk"),
    "subquery": lambda c: Author.objects.annotate(
        x=Subquery(Poem.objects.filter(author=OuterRef("pk")).order_by("-rank", "pk").values("name")[:1])
    ).order_by("pk"),
    "subquery in filter": lambda c: Poem.objects.filter(
        rank=Subquery(Author.objects.filter(pk=OuterRef("author")).values("rank")[:1])
    ),
    "subquery deep": lambda c: Author.objects.filter(
        Exists(
            Poem.objects.filter(
                Exists(Novel.objects.filter(author=OuterRef("author"), rank=c.number())),
                author=OuterRef("pk"),
            )
        )
    ),
    "subquery of aggregate": lambda c: Author.objects.annotate(
        x=Subquery(
            Poem.objects.filter(author=OuterRef("pk"))
            .order_by()
            .values("author")
            .annotate(m=Max("rank"))
            .values("m")
        )
    ).order_by("pk"),
    "array of a subquery": lambda c: Author.objects.annotate(
        x=ArraySubquery(Poem.objects.filter(author=OuterRef("pk")).order_by("name").values("name"))
    ).order_by("pk"),
    "subquery of a union": lambda c: Author.objects.filter(
        name__in=Poem.objects.filter(rank=c.number()).values("name").union(Label.objects.values("name"))
    ),
    "query of nothing": lambda c: Poem.objects.filter(author__in=Author.objects.none()),
    "or of nothing": lambda c: Poem.objects.filter(Q(author__in=Author.objects.none()) | Q(rank=c.number())),
    "lazy instance": lambda c: Poem.objects.filter(author=SimpleLazyObject(partial(Author, pk=c.key()))),
    "filtered relation": lambda c: (
        Author.objects.annotate(p=FilteredRelation("poem", condition=Q(poem__rank=c.number())))
        .values_list("name", "p__name")
        .order_by("pk", "p__name")
    ),
    "filtered relation null": lambda c: Author.objects.annotate(
        p=FilteredRelation("poem", condition=Q(poem__rank=c.number()))
    ).filter(p=None),
    "filtered relation of related": lambda c: (
        Poem.objects.annotate(
            p=FilteredRelation(
                "author__novels", condition=Q(author__novels__rank=c.number()) | Q(author__rank=0)
            )
        )
        .filter(p__isnull=False)
        .order_by("pk")
    ),
    "several columns": lambda c: Visit.objects.filter(shelf__sign=c.text()),
    "several columns related": lambda c: Visit.objects.select_related("shelf").order_by("pk"),
    "several columns reverse": lambda c: Shelf.objects.filter(visit__name=c.text()),
    "several columns instance": lambda c: Visit.objects.filter(
        shelf=Shelf(pk=1, hall=c.number(), side=c.number())
    ),
    "several columns null": lambda c: Visit.objects.filter(shelf__rank=None).order_by("pk"),
    "prequel": lambda c: Novel.objects.filter(prequel__name=c.text()).values("name"),
    "prequel null": lambda c: Novel.objects.filter(prequel=None).values("name"),
    "sequel null": lambda c: Novel.objects.filter(sequel__is_sold=None).values("name"),
    "two tables of text": lambda c: Novel.objects.filter(
        shelf__rank=c.number(), genre__rank=c.number()
    ).values("pk"),
    "shelf of one": lambda c: Novel.objects.filter(shelf=c.text()).values("shelf__rank", "pk"),
}
#: Many-to-many relations, generic relations and inheritance.
_MANY: dict[str, Kind] = {
    "many": lambda c: Post.objects.filter(labels=c.key()),
    "many twice": lambda c: Post.objects.filter(labels=c.key()).filter(labels=c.key()),
    "many in": lambda c: Post.objects.filter(labels__in=[c.key(), c.key()]).distinct(),
    "many by text": lambda c: Post.objects.filter(labels__name=c.text()),
    "many null": lambda c: Post.objects.filter(labels=None),
    "many exclude": lambda c: Post.objects.exclude(labels=c.key()),
    "many exclude text": lambda c: Post.objects.exclude(labels__name=c.text()),
    "many count": lambda c: Post.objects.annotate(n=Count("labels")).order_by("-n", "pk"),
    "many order": lambda c: Post.objects.order_by("labels__rank", "labels__pk", "pk"),
    "many of one": lambda c: Post(pk=c.key()).labels.all(),
    "many of one in order": lambda c: Label(pk=c.key()).posts.order_by("-name"),
    "many through": lambda c: Post.objects.filter(credit__rank=c.number()),
    "many credited": lambda c: Post.objects.filter(credited=c.key(), credit__rank__lt=2).order_by("pk"),
    "many symmetric": lambda c: Post.objects.filter(friends__name=c.text()),
    "many through table": lambda c: (
        Post.labels.through.objects.filter(post=c.key()).values("label__name").order_by("pk")
    ),
    "many values": lambda c: Novel.objects.order_by("pk", "labels__name").values("pk", "labels__name"),
    "prefetch": lambda c: prefetched(Post, "labels").order_by("pk", "_prefetch_related_val_post_id"),
    "prefetch reverse": lambda c: prefetched(Label, "novels").values_list("pk").order_by("pk"),
    "prefetch generic": lambda c: prefetched(Post, "marks"),
    "prefetch related": lambda c: prefetched(Author, "poem_set"),
    "generic": lambda c: Post.objects.filter(marks__name=c.text()),
    "generic count": lambda c: Post.objects.annotate(n=Count("marks")).order_by("pk"),
    "generic null": lambda c: Post.objects.filter(marks=None).order_by("pk"),
    "generic exclude": lambda c: Post.objects.exclude(marks__rank=c.number()),
    "generic of one": lambda c: Post(pk=c.key()).marks.all(),
    "generic in values": lambda c: Post.objects.order_by("pk", "marks__name").values("marks__name"),
    "generic target": lambda c: Mark.objects.filter(object_id=c.key(), content_type__model="post"),
    "child": lambda c: Bar.objects.filter(rank=c.number()),
    "child by its key": lambda c: Bar.objects.filter(pk=c.key()),
    "child by both": lambda c: Bar.objects.filter(name=c.text(), taps=c.number()),
    "child values": lambda c: Inn.objects.order_by("pk").values("name", "beds"),
    "child order": lambda c: Bar.objects.order_by("-rank", "pk"),
    "grandchild": lambda c: Pub.objects.filter(rank__in=c.numbers(), darts__gte=0),
    "grandchild by its key": lambda c: Pub.objects.filter(pk=c.key()).values("name", "taps", "darts"),
    "parent of child": lambda c: Place.objects.filter(bar__taps=c.number()),
    "parent without child": lambda c: Place.objects.filter(bar=None).order_by("pk"),
    "parent with children": lambda c: Place.objects.select_related("bar__pub", "inn").order_by("pk"),
    "child with own key": lambda c: Kiosk.objects.filter(code=c.text()),
    "child with own key by place": lambda c: Kiosk.objects.filter(place=c.key()),
    "child of two": lambda c: Boat.objects.filter(title=c.text(), rank=c.number()),
    "proxy": lambda c: EarlyPlace.objects.filter(name=c.text()),
    "proxy in order": lambda c: EarlyPlace.objects.order_by("rank", "pk")[:3],
    "reverse one to one": lambda c: Author.objects.filter(desk__rank=c.number()),
    "reverse one to one null": lambda c: Author.objects.filter(desk=None),
    "reverse one to one column null": lambda c: Author.objects.filter(desk__rank=None).order_by("pk"),
    "one to one": lambda c: Desk.objects.filter(author=c.key()),
    "constraint": lambda c: Seat.objects.filter(hall=c.number(), rank=c.number()),
}
#: What is not cached.
_UNCACHED: dict[str, tuple[Kind, str]] = {
    "now": (lambda c: Novel.objects.filter(since__lte=Now()), "Now"),
    "random": (lambda c: Author.objects.annotate(x=Random()), "Random"),
    "random order": (lambda c: Author.objects.order_by("?"), "Random"),
    "raw sql": (lambda c: Author.objects.annotate(x=RawSQL("rank * 2", ())), "RawSQL"),
    "extra where": (lambda c: Author.objects.extra(where=["rank > 1"]), "ExtraWhere"),
    "extra select": (lambda c: Author.objects.extra(select={"x": "rank * 2"}), "RawSQL"),
    "extra table": (lambda c: Author.objects.extra(tables=["zoo_label"]), "extra"),
    "extra order": (lambda c: Author.objects.extra(order_by=["zoo_author.rank"]), "RawSQL"),
    "own function": (lambda c: Author.objects.annotate(x=Shout("name")), "Shout"),
    "bare function": (lambda c: Author.objects.annotate(x=Func("name", function="UPPER")), "Func"),
    "given function": (lambda c: Author.objects.annotate(x=Lower("name", function="UPPER")), "Lower"),
    "for update": (lambda c: Author.objects.select_for_update(), "select_for_update"),
    "own function deep": (
        lambda c: Author.objects.filter(
            Exists(Poem.objects.filter(author=OuterRef("pk"), name=Shout("name")))
        ),
        "Shout",
    ),
    "filter of own function": (
        lambda c: Author.objects.annotate(n=Count("poem", filter=Q(poem__name=Shout("name")))),
        "Shout",
    ),
}
KINDS: dict[str, Kind] = {**_ONE, **_TYPES, **_RELATIONS, **_MANY}
KINDS |= {name: kind for name, (kind, _) in _UNCACHED.items()}
UNCACHED: dict[str, str] = {name: word for name, (_, word) in _UNCACHED.items()}
